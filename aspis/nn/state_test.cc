#include "aspis/nn/state.h"

#include <mlx/ops.h>
#include <mlx/random.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>

#include "aspis/base/error.h"
#include "aspis/nn/mamba2_block.h"
#include "aspis/nn/mamba3_block.h"
#include "aspis/nn/mamba_block.h"
#include "aspis/nn/test_support.h"

namespace aspis {
namespace {

using golden::normalised_error;
namespace fs = std::filesystem;

constexpr int kWidth = 12;

struct Kind {
  const char* name;
  std::unique_ptr<SequenceMixer> block;
};

std::vector<Kind> kinds() {
  std::vector<Kind> list;
  const Init init(4);
  list.push_back(
      {"mamba1", std::make_unique<MambaBlock>(
                     MambaConfig{.width = kWidth, .state = 5, .conv = 4, .expand = 2, .dt_rank = 0}, init)});
  list.push_back(
      {"mamba2", std::make_unique<Mamba2Block>(
                     Mamba2Config{.width = kWidth, .state = 6, .conv = 3, .headdim = 4, .groups = 3}, init)});
  list.push_back({"mamba3", std::make_unique<Mamba3Block>(
                                Mamba3Config{.width = kWidth, .state = 8, .headdim = 6, .groups = 2}, init)});
  list.push_back(
      {"mamba3",
       std::make_unique<Mamba3Block>(
           Mamba3Config{
               .width = kWidth, .state = 8, .headdim = 4, .rank = 3, .rope_fraction = 1, .out_norm = true},
           init)});
  return list;
}

mx::array random(const mx::Shape& shape, uint64_t seed) {
  return mx::random::normal(shape, mx::random::key(seed));
}

mx::array part(const mx::array& x, int from, int to) {
  return mx::slice(x, {0, from, 0}, {x.shape(0), to, x.shape(2)});
}

fs::path scratch(const char* name) {
  const fs::path folder = fs::temp_directory_path() / "aspis_state_test";
  fs::create_directories(folder);
  return folder / name;
}

bool same(const State& a, const State& b) {
  if (a.kind() != b.kind() || a.arrays().size() != b.arrays().size()) return false;
  for (size_t i = 0; i < a.arrays().size(); i++) {
    const auto& [name, value] = a.arrays()[i];
    const auto& [other_name, other] = b.arrays()[i];
    if (name != other_name || !mx::array_equal(value, other).item<bool>()) return false;
  }
  return true;
}

std::string refusal(const std::function<void()>& f, ErrorKind kind) {
  try {
    f();
  } catch (const Error& e) {
    CHECK(e.kind() == kind);
    return e.what();
  }
  return "taken";
}

}  // namespace

TEST_CASE("mamba2_and_mamba3_blocks_match_the_golden_values_and_gradients") {
  const auto make = [](const std::string& name) -> std::unique_ptr<SequenceMixer> {
    if (name == "mamba2") {
      return std::make_unique<Mamba2Block>(
          Mamba2Config{.width = 8, .state = 5, .conv = 4, .headdim = 4, .groups = 2}, Init());
    }
    Mamba3Config c{.width = 8, .state = 8, .headdim = 4, .groups = 2};
    if (name == "mimo") c.groups = 1, c.rank = 3, c.rope_fraction = 1, c.out_norm = true;
    return std::make_unique<Mamba3Block>(c, Init());
  };
  for (const char* name : {"mamba2", "siso", "mimo"}) {
    CAPTURE(name);
    const auto golden = golden::load_case(name, "mamba_blocks");
    for (const auto dtype : {mx::float64, mx::float32}) {
      auto block = make(name);
      golden::load_params(*block, golden, dtype);
      const auto h = mx::astype(golden.at("in/h"), dtype);
      CHECK(normalised_error((*block)(h), golden.at("out/y")) < golden::tolerance(dtype));
      const auto [y, state] = block->prefill(h, block->initial_state(2));
      CHECK(normalised_error(state.at("ssm"), golden.at("out/ssm")) < golden::tolerance(dtype));
      golden::expect_gradients(*block, golden, dtype, [&] { return (*block)(h); });
    }
  }
}

TEST_CASE("prefill_and_a_step_equal_prefill_of_one_more_token_for_every_kind") {
  for (const auto& [name, block] : kinds()) {
    CAPTURE(name);
    const auto h = random({3, 9, kWidth}, 1);
    for (const int first : {0, 1, 2, 5, 8}) {
      CAPTURE(first);
      auto state = block->initial_state(3);
      if (first > 0) state = block->prefill(part(h, 0, first), state).second;
      const auto [y, next] = block->step(mx::squeeze(part(h, first, first + 1), 1), state);
      const auto [all, want] = block->prefill(part(h, 0, first + 1), block->initial_state(3));
      CHECK(normalised_error(y, mx::squeeze(part(all, first, first + 1), 1)) < 2e-6);
      for (const auto& [array, value] : want.arrays()) {
        CAPTURE(array);
        CHECK(normalised_error(next.at(array), value) < 2e-6);
      }
    }
    // The same as one call, and as two prefills.
    const auto [head, middle] = block->prefill(part(h, 0, 4), block->initial_state(3));
    const auto [tail, end] = block->prefill(part(h, 4, 9), middle);
    CHECK(normalised_error(mx::concatenate({head, tail}, 1), (*block)(h)) < 2e-6);
  }
}

TEST_CASE("a_saved_gathered_forked_or_stacked_state_goes_on_as_the_original") {
  for (const auto& [name, block] : kinds()) {
    CAPTURE(name);
    const auto h = random({3, 7, kWidth}, 2), token = random({3, kWidth}, 3);
    const auto state = block->prefill(h, block->initial_state(3)).second;
    const auto want = block->step(token, state).first;

    const auto path = scratch("state.safetensors");
    state.save(path);
    const State loaded = State::load(path, name);
    CHECK(same(loaded, state));
    CHECK(mx::array_equal(block->step(token, loaded).first, want).item<bool>());

    const std::vector<int32_t> chosen{2, 0, 2, 1};
    const mx::array rows(chosen.data(), {4}, mx::int32);
    const auto gathered = block->step(mx::take(token, rows, 0), state.gather(chosen)).first;
    CHECK(normalised_error(gathered, mx::take(want, rows, 0)) < 1e-6);

    const auto forked = state.fork(2);
    CHECK(forked.batch() == 6);
    CHECK(same(forked, state.gather({0, 0, 1, 1, 2, 2})));

    const auto single = state.split();
    REQUIRE(single.size() == 3);
    CHECK(same(State::stack(single), state));
    CHECK(same(State::stack({single[1], single[1]}), state.gather({1, 1})));

    // A step does not change the state that it came from.
    CHECK(same(loaded, state));
    CHECK(state.bytes() > 0);
  }
}

TEST_CASE("blocks_follow_a_direction") {
  for (const auto& [name, block] : kinds()) {
    CAPTURE(name);
    const auto h = random({2, 6, kWidth}, 5);
    const mx::array backwards({5, 4, 3, 2, 1, 0}, {6}, mx::int32), order({3, 0, 5, 1, 4, 2}, {6}, mx::int32);
    const auto want = mx::take((*block)(mx::take(h, backwards, 1)), backwards, 1);
    CHECK(normalised_error((*block)(h, {std::nullopt, true}), want) < 2e-6);
    CHECK(normalised_error((*block)(h, {backwards, false}), want) < 2e-6);
    const auto shuffled = mx::take((*block)(mx::take(h, order, 1)), mx::argsort(order), 1);
    CHECK(normalised_error((*block)(h, {order, false}), shuffled) < 2e-6);
  }
}

TEST_CASE("states_that_do_not_fit_are_refused_before_anything_runs") {
  auto list = kinds();
  const auto token = random({2, kWidth}, 3);
  const auto state = list[1].block->initial_state(2);
  const auto contains = [](const std::string& text, const char* part) {
    CHECK_MESSAGE(text.find(part) != std::string::npos, text);
  };
  contains(refusal([&] { list[0].block->step(token, state); }, ErrorKind::kUsage),
           "a state of kind mamba1 with conv {1, 3, 24}, ssm {1, 24, 5}; got kind mamba2");
  contains(refusal([&] { list[3].block->step(token, list[2].block->initial_state(2)); }, ErrorKind::kUsage),
           "kind mamba3");
  contains(refusal([&] { list[1].block->step(token, list[1].block->initial_state(3)); }, ErrorKind::kUsage),
           "a state of 2 sequences; got 3");
  contains(refusal([&] { state.at("angle"); }, ErrorKind::kUsage), "\"angle\"");
  contains(refusal([&] { state.gather({0, 2}); }, ErrorKind::kUsage), "[0, 2); got 2");
  contains(refusal([&] { state.gather({-1}); }, ErrorKind::kUsage), "got -1");
  contains(refusal([&] { state.fork(0); }, ErrorKind::kUsage), "at least 1; got 0");
  contains(refusal([&] { State::stack({}); }, ErrorKind::kUsage), "none");
  contains(refusal(
               [&] {
                 State::stack({state, list[0].block->initial_state(2)});
               },
               ErrorKind::kUsage),
           "kind mamba2");
  contains(refusal([&] { State("mamba1", {}); }, ErrorKind::kUsage), "at least one array");
  contains(refusal(
               [&] {
                 State("x", {{"a", mx::zeros({2})}, {"b", mx::zeros({3})}});
               },
               ErrorKind::kUsage),
           "same number of sequences");
  contains(refusal([&] { list[1].block->prefill(mx::zeros({2, 4, 5}), state); }, ErrorKind::kUsage), "{B, L, 12}");
  contains(refusal(
               [&] {
                 list[2].block->step(mx::zeros({2, 5}), list[2].block->initial_state(2));
               },
               ErrorKind::kUsage),
           "{B, 12}");
  CHECK_THROWS_AS(Mamba2Block(Mamba2Config{.width = 10, .headdim = 7}, Init()), Error);
  CHECK_THROWS_AS(Mamba2Block(Mamba2Config{.width = 12, .headdim = 4, .groups = 4}, Init()), Error);
  CHECK_THROWS_AS(Mamba3Block(Mamba3Config{.width = 12, .state = 2, .headdim = 4}, Init()), Error);
  CHECK_THROWS_AS(Mamba3Block(Mamba3Config{.width = 12, .headdim = 4, .rope_fraction = 0.3}, Init()), Error);
}

TEST_CASE("files_that_hold_no_state_are_refused") {
  const auto block = kinds();
  const auto path = scratch("bad.safetensors");
  block[0].block->initial_state(2).save(path);
  CHECK(refusal([&] { State::load(path, "mamba2"); }, ErrorKind::kModel).find("kind mamba2; got mamba1") !=
        std::string::npos);
  CHECK(State::load(path).kind() == "mamba1");
  const std::string good = [&] {
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }();
  // Every truncation: an error, never something else.
  for (size_t n = 0; n < good.size(); n += 7) {
    std::ofstream(path, std::ios::binary) << good.substr(0, n);
    CHECK(refusal([&] { State::load(path); }, ErrorKind::kModel) != "taken");
  }
  std::ofstream(path, std::ios::binary) << dump_arrays({{"w", mx::zeros({2})}});
  CHECK(refusal([&] { State::load(path); }, ErrorKind::kModel).find("other tensors") != std::string::npos);
}

}  // namespace aspis
