#include "aspis/ops/common/primitive.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>

#include "aspis/base/clock.h"
#include "aspis/base/log.h"
#include "aspis/base/parallel.h"

namespace aspis::ops {

std::string to_string(const mx::Shape& shape) {
  std::string text = "{";
  for (size_t i = 0; i < shape.size(); i++) {
    if (i) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "}";
}

std::string to_string(mx::Dtype dtype) {
  if (dtype == mx::float32) return "float32";
  if (dtype == mx::float64) return "float64";
  if (dtype == mx::float16) return "float16";
  if (dtype == mx::bfloat16) return "bfloat16";
  if (dtype == mx::complex64) return "complex64";
  if (dtype == mx::bool_) return "bool";
  const bool is_unsigned = dtype == mx::uint8 || dtype == mx::uint16 || dtype == mx::uint32 || dtype == mx::uint64;
  return (is_unsigned ? "uint" : "int") + std::to_string(8 * mx::size_of(dtype));
}

void require_shape(const char* op, const char* name, const mx::array& a, const mx::Shape& shape,
                   const char* letters) {
  if (a.shape() == shape) return;
  throw Error(ErrorKind::kUsage,
              {.where = op,
               .required = std::string(name) + " must have shape " + letters + " = " + to_string(shape),
               .got = to_string(a.shape())});
}

mx::Dtype compute_dtype(const char* op,
                        std::initializer_list<std::pair<const char*, const mx::array*>> inputs) {
  bool has_double = false;
  for (const auto& [name, a] : inputs) {
    if (!a) continue;
    const mx::Dtype t = a->dtype();
    if (!mx::issubdtype(t, mx::floating)) {
      throw Error(ErrorKind::kUsage, {.where = op,
                                      .required = std::string(name) + " must be a real floating-point array",
                                      .got = to_string(t)});
    }
    has_double = has_double || t == mx::float64;
  }
  return has_double ? mx::float64 : mx::float32;
}

void allocate(mx::cpu::CommandEncoder& encoder, mx::array& out, const char* op) {
  auto data = mx::allocator::malloc(out.nbytes());
  if (!data.buffer().ptr() && out.nbytes() > 0) {
    throw Error(ErrorKind::kDevice,
                {.where = op,
                 .required = "a buffer of " + format_bytes(static_cast<double>(out.nbytes())) + " is needed",
                 .got = "no memory",
                 .hint = "a smaller batch or a shorter sequence"});
  }
  out.set_data(std::move(data));
  encoder.set_output_array(out);
}

void* allocate_scratch(mx::cpu::CommandEncoder& encoder, size_t bytes, const char* op) {
  // Shapes are 32-bit: large scratch is counted in kilobytes.
  const int rows = static_cast<int>((bytes + 1023) / 1024);
  mx::array scratch({rows, 1024}, mx::uint8, nullptr, {});
  allocate(encoder, scratch, op);
  void* data = scratch.data<uint8_t>();
  encoder.add_temporary(std::move(scratch));
  return data;
}

mx::array absent() { return mx::array(0.0f); }

std::string to_string(BackEnd back_end) { return back_end == BackEnd::kCpu ? "cpu" : "composed"; }

namespace {

std::mutex g_mutex;
std::set<std::pair<std::string, std::string>> g_used;
std::atomic<int> g_forced{-1};

int forced_by_environment() {
  const char* text = std::getenv("ASPIS_BACKEND");
  if (!text) return -1;
  if (std::strcmp(text, "composed") == 0) return static_cast<int>(BackEnd::kComposed);
  if (std::strcmp(text, "cpu") == 0) return static_cast<int>(BackEnd::kCpu);
  throw Error(ErrorKind::kUsage, {.where = "ASPIS_BACKEND", .required = "cpu or composed is needed", .got = text});
}

}  // namespace

void force_back_end(std::optional<BackEnd> back_end) { g_forced = back_end ? static_cast<int>(*back_end) : -1; }

BackEnd choose_back_end(const char* op, mx::Stream stream) {
  static const int environment = forced_by_environment();
  int choice = g_forced.load();
  if (choice < 0) choice = environment;
  BackEnd back_end = choice >= 0 ? static_cast<BackEnd>(choice) : BackEnd::kCpu;
  if (stream.device == mx::Device::gpu) back_end = BackEnd::kComposed;
  const std::lock_guard lock(g_mutex);
  if (g_used.emplace(op, to_string(back_end)).second) {
    log_debug("ops", std::string(op) + " runs on back end " + to_string(back_end));
  }
  return back_end;
}

std::vector<std::pair<std::string, std::string>> back_ends_used() {
  const std::lock_guard lock(g_mutex);
  return {g_used.begin(), g_used.end()};
}

namespace detail {
namespace {

// Copies an array of any strides into row-major order, one innermost row at a time.
template <typename Word>
void copy_rows(const Word* from, Word* to, const mx::Shape& shape, const mx::Strides& strides) {
  const int ndim = static_cast<int>(shape.size());
  const int64_t row = shape[ndim - 1], step = strides[ndim - 1];
  int64_t rows = 1;
  for (int i = 0; i < ndim - 1; i++) rows *= shape[i];
  constexpr int64_t kElementsPerTask = 1 << 15;
  const int64_t rows_per_task = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(row, 1));
  parallel_for(div_ceil(rows, rows_per_task), [&](int64_t task) {
    const int64_t first = task * rows_per_task, last = std::min(rows, first + rows_per_task);
    for (int64_t r = first; r < last; r++) {
      int64_t offset = 0, rest = r;
      for (int i = ndim - 2; i >= 0; i--) {
        offset += (rest % shape[i]) * strides[i];
        rest /= shape[i];
      }
      const Word* source = from + offset;
      Word* target = to + r * row;
      if (step == 1) {
        std::memcpy(target, source, row * sizeof(Word));
      } else {
        for (int64_t i = 0; i < row; i++) target[i] = source[i * step];
      }
    }
  });
}

}  // namespace

void dispatch_copy(mx::cpu::CommandEncoder& encoder, const mx::array& from, mx::array& to) {
  const size_t item = mx::size_of(from.dtype());
  const auto copy = [&](auto word) {
    using Word = decltype(word);
    // data<T> of another type of the same size: only the bytes matter.
    const Word* source = from.data<Word>();
    Word* target = to.data<Word>();
    encoder.dispatch([source, target, shape = from.shape(), strides = from.strides()] {
      copy_rows(source, target, shape, strides);
    });
  };
  switch (item) {
    case 1: copy(uint8_t{}); break;
    case 2: copy(uint16_t{}); break;
    case 4: copy(uint32_t{}); break;
    default: copy(uint64_t{}); break;
  }
}

}  // namespace detail
}  // namespace aspis::ops
