#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "aspis/ops/common/primitive.h"

/// Timing of every operation of a graph, the engine's own included.
///
/// Before a graph is evaluated, the primitive of each of its nodes is wrapped
/// into one that leaves two marks on the stream's queue, one before and one
/// after the work of the node. The graph keeps its order, its batching and its
/// donated buffers, so that a profiled step is the step that runs otherwise; it
/// takes some microseconds more an operation.
namespace aspis::ops {

/// One operation of one evaluation. Times are seconds since the profiler began.
struct ProfileEvent {
  std::string name;     ///< of the primitive: "linear", "Multiply"
  bool engine = false;  ///< an operation of MLX, not of this library
  bool view = false;    ///< moved no data: a reshape, a slice, a broadcast
  int evaluation = 0;   ///< which call of `evaluate`
  double start = 0;     ///< when the stream came to it
  double seconds = 0;   ///< until its work was done; includes waiting for the host to hand it over
  double host_start = 0, host_seconds = 0;  ///< on the calling thread: allocation and hand-over
  int64_t bytes = 0;                        ///< inputs read once and outputs written once; 0 for a view
  Work work;                                ///< of this library's operations; zero for those of the engine
  std::string shapes;                       ///< "{8, 197, 192}, {384, 192} -> {8, 197, 384}"
  int64_t active_bytes = 0;                 ///< memory of the engine in use at its hand-over
};

/// One call of `evaluate`.
struct ProfileSpan {
  double start = 0, seconds = 0;  ///< from its call to its return
  double active_bytes = 0;        ///< engine memory in use at its end
};

/// While one is alive, `evaluate` times what it evaluates. One at a time, on
/// the thread that evaluates; throws Error(kUsage) for a second one.
class Profiler {
 public:
  /// Records the calls number `skip` (warm-up) to `skip + keep - 1` of
  /// `evaluate`. If there are no more than `skip`, nothing is recorded.
  explicit Profiler(int skip = 0, int keep = 1 << 30);
  ~Profiler();
  Profiler(const Profiler&) = delete;
  Profiler& operator=(const Profiler&) = delete;

  const std::deque<ProfileEvent>& events() const { return events_; }
  const std::vector<ProfileSpan>& spans() const { return spans_; }
  /// Calls seen so far, those that were not recorded included.
  int calls() const { return calls_; }

 private:
  friend void evaluate(std::vector<mx::array> outputs);
  friend class TimedPrimitive;
  ProfileEvent& add_event();
  double now() const;

  int skip_, keep_, calls_ = 0;
  double origin_;
  std::deque<ProfileEvent> events_;  // addresses hold while it grows: the stream's thread writes into it
  std::vector<ProfileSpan> spans_;
};

/// `mx::eval`; with a Profiler alive, each operation is timed.
void evaluate(std::vector<mx::array> outputs);

}  // namespace aspis::ops
