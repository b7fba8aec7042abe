#pragma once

#include <mlx/allocator.h>
#include <mlx/array.h>
#include <mlx/backend/cpu/encoder.h>
#include <mlx/ops.h>
#include <mlx/primitives.h>
#include <mlx/transforms.h>
#include <mlx/utils.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aspis/base/error.h"

/// What every operator needs at the border between MLX and its kernels. The
/// rules behind it: inputs may not be read in `eval_cpu` (their data may not be
/// there yet), a dispatched lambda holds raw pointers only and does not throw,
/// a cotangent may be a broadcast view, and a failed allocation is a null
/// pointer.
namespace aspis {

namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;

namespace ops {

/// "{2, 196, 384}".
std::string to_string(const mx::Shape& shape);
/// "float32".
std::string to_string(mx::Dtype dtype);

/// Throws Error(kUsage) "[op] <name> must have shape <wanted>; got {..}" unless
/// the shapes agree. `wanted` is how the message shows it, e.g. "{D, N} = {4, 16}".
void require_shape(const char* op, const char* name, const mx::array& a, const mx::Shape& shape,
                   const char* letters);

/// The dtype an operator computes in for these inputs: float64 if any is, else
/// float32 (float16 and bfloat16 are widened and narrowed again at the end).
/// Throws Error(kUsage) for integer, bool and complex inputs, naming them.
mx::Dtype compute_dtype(const char* op, std::initializer_list<std::pair<const char*, const mx::array*>> inputs);

/// Gives `out` its buffer and declares it to the encoder. Throws
/// Error(kDevice) when memory is out, which is safe inside `eval_cpu`.
void allocate(mx::cpu::CommandEncoder& encoder, mx::array& out, const char* op);

/// A temporary of `elements` values of T that lives until the kernels
/// dispatched so far have run.
void* allocate_scratch(mx::cpu::CommandEncoder& encoder, size_t bytes, const char* op);

/// A row-contiguous view of an input. If the array has gaps, is broadcast or
/// transposed, a copy into a temporary is dispatched first; the pointer may be
/// captured but not read before the kernel runs.
template <typename T>
const T* packed(mx::cpu::CommandEncoder& encoder, const mx::array& a, const char* op);

/// An input whose last axis is contiguous; the other axes have any non-negative
/// strides (in elements). Copied like `packed` only if the last axis has gaps,
/// so a slice along it, or a broadcast along the others, costs nothing.
template <typename T>
struct Strided {
  const T* data = nullptr;
  mx::Strides strides;  ///< one per axis of the array
  int64_t operator[](int axis) const { return strides[axis]; }
};
template <typename T>
Strided<T> strided(mx::cpu::CommandEncoder& encoder, const mx::array& a, const char* op);

/// Calls `f(T{})` with T = float or double.
template <typename F>
void dispatch_float(mx::Dtype dtype, F&& f) {
  if (dtype == mx::float64) {
    f(double{});
  } else {
    f(float{});
  }
}

/// Arithmetic of an operation, for model summaries, profiles and bounds.
struct Work {
  double macs = 0;  ///< multiply-adds: a multiplication and an addition are one
  double exps = 0;  ///< exponentials and functions of that cost
  double scan_macs = 0;  ///< of `macs`, those of a recurrence over tokens
};

/// Base of all CPU primitives: no GPU evaluation, a name for messages.
class CpuPrimitive : public mx::Primitive {
 public:
  using Primitive::Primitive;
  /// What one evaluation costs, from the shapes alone; zero where moving the
  /// data is all there is.
  virtual Work work(const Arrays& /*inputs*/, const Arrays& /*outputs*/) const { return {}; }
  void eval_gpu(const Arrays&, Arrays&) override {
    throw Error(ErrorKind::kDevice, {.where = name(),
                                     .required = "this operator has a CPU kernel only",
                                     .got = "a GPU stream",
                                     .hint = "pass the CPU device, or choose the composed back end"});
  }
};

/// The ways to compute an operator. `kCpu` is the kernel of this library,
/// `kComposed` the same mathematics out of MLX operations.
enum class BackEnd { kCpu, kComposed };
std::string to_string(BackEnd back_end);

/// Which way an operator takes for a stream: its kernel on the CPU, the
/// composed version elsewhere, or what `force_back_end` or ASPIS_BACKEND=composed
/// asks for. The first use of each pair is logged at debug level.
BackEnd choose_back_end(const char* op, mx::Stream stream);
/// Forces a way for all operators that have it; nullopt goes back to the choice by device.
void force_back_end(std::optional<BackEnd> back_end);
/// (operator, back end) pairs that have run in this process so far, sorted.
std::vector<std::pair<std::string, std::string>> back_ends_used();

/// A cotangent as dense row-major data of `dtype`.
inline mx::array dense(const mx::array& a, mx::Stream s) { return mx::contiguous(a, false, s); }

/// An empty placeholder for an absent optional input; primitives keep a fixed
/// number of inputs and a flag for each optional one.
mx::array absent();

namespace detail {
void dispatch_copy(mx::cpu::CommandEncoder& encoder, const mx::array& from, mx::array& to);
}

template <typename T>
const T* packed(mx::cpu::CommandEncoder& encoder, const mx::array& a, const char* op) {
  encoder.set_input_array(a);
  if (a.flags().row_contiguous || a.size() == 0) return a.data<T>();
  mx::array copy(a.shape(), a.dtype(), nullptr, {});
  allocate(encoder, copy, op);
  detail::dispatch_copy(encoder, a, copy);
  const T* data = copy.data<T>();
  encoder.add_temporary(std::move(copy));
  return data;
}

template <typename T>
Strided<T> strided(mx::cpu::CommandEncoder& encoder, const mx::array& a, const char* op) {
  const int last = static_cast<int>(a.ndim()) - 1;
  bool usable = a.ndim() > 0 && (a.strides()[last] == 1 || a.shape(last) == 1);
  for (const auto stride : a.strides()) usable = usable && stride >= 0;
  if (usable) {
    encoder.set_input_array(a);
    return {a.data<T>(), a.strides()};
  }
  mx::Strides dense_strides(a.ndim());
  int64_t step = 1;
  for (int i = last; i >= 0; i--) {
    dense_strides[i] = step;
    step *= a.shape(i);
  }
  return {packed<T>(encoder, a, op), dense_strides};
}

}  // namespace ops
}  // namespace aspis
