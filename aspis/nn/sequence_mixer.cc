#include "aspis/nn/sequence_mixer.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include "aspis/base/error.h"

namespace aspis {

void SequenceMixer::check_state(const State& state, int64_t batch) const {
  state.require_like(initial_state(1), type_name());
  require(state.batch() == batch, [&] {
    return Error::Parts{.where = type_name(),
                        .required = fmt::format("a state of {} sequences", batch),
                        .got = std::to_string(state.batch()),
                        .hint = "State::gather or State::fork"};
  });
}

mx::array visit_tokens(const mx::array& h, const ScanDirection& direction) {
  if (direction.order) return mx::take(h, *direction.order, 1);
  if (direction.reverse) return mx::take(h, mx::arange(h.shape(1) - 1, -1, -1, mx::int32), 1);
  return h;
}

mx::array unvisit_tokens(const mx::array& h, const ScanDirection& direction) {
  if (direction.order) return mx::take(h, mx::argsort(*direction.order), 1);
  return visit_tokens(h, direction);
}

}  // namespace aspis
