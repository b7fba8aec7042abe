#include "aspis/io/weight_tensor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>

#include "aspis/base/utf8.h"
#include "aspis/io/checked.h"
#include "aspis/io/names.h"

namespace aspis {
namespace {

constexpr size_t kMaxRank = 8;
constexpr int64_t kMaxDim = 2147483647;

}  // namespace

int64_t WeightTensor::elements() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

bool WeightTensor::contiguous() const {
  const auto plain = row_major_strides(shape);
  for (size_t i = 0; i < shape.size(); i++) {
    if (shape[i] > 1 && strides[i] != plain[i]) return false;
  }
  return true;
}

TensorView WeightTensor::packed(std::string& buffer) const {
  const int64_t n = elements(), width = size_of(dtype);
  if (n == 0 || contiguous()) return {name, dtype, shape, bytes.substr(0, static_cast<size_t>(n * width))};
  buffer.resize(static_cast<size_t>(n * width));
  // Row by row of the last axis; the others count like an odometer.
  const size_t rank = shape.size();
  const int64_t inner = shape[rank - 1], step = strides[rank - 1];
  std::vector<int64_t> at(rank, 0);
  char* out = buffer.data();
  int64_t from = 0;
  for (int64_t row = 0; row < n / inner; row++) {
    for (int64_t i = 0; i < inner; i++, out += width) {
      std::memcpy(out, bytes.data() + (from + i * step) * width, static_cast<size_t>(width));
    }
    for (size_t axis = rank - 1; axis-- > 0;) {
      from += strides[axis];
      if (++at[axis] < shape[axis]) break;
      from -= strides[axis] * shape[axis];
      at[axis] = 0;
    }
  }
  return {name, dtype, shape, buffer};
}

std::vector<int64_t> row_major_strides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) {
    if (!checked_mul(strides[i], std::max<int64_t>(1, shape[i]), &strides[i - 1])) strides[i - 1] = INT64_MAX;
  }
  return strides;
}

WeightTensor cut_tensor(std::string group, std::string name, TensorDtype dtype, std::vector<int64_t> shape,
                        std::vector<int64_t> strides, int64_t offset, std::string_view storage,
                        const ModelFault& fault) {
  require_plain_name(name, fault);
  const std::string shown = shown_name(name);
  if (shape.size() > kMaxRank) {
    fault(fmt::format("tensor {} must have at most {} dimensions", shown, kMaxRank),
          fmt::format("{}", shape.size()));
  }
  if (strides.size() != shape.size()) {
    fault(fmt::format("tensor {} must have as many strides as dimensions", shown),
          fmt::format("{} and {}", strides.size(), shape.size()));
  }
  const int64_t width = size_of(dtype), held = static_cast<int64_t>(storage.size()) / width;
  int64_t n = 1, last = offset;
  bool empty = false, fits = offset >= 0;
  for (size_t i = 0; i < shape.size(); i++) {
    if (shape[i] < 0 || shape[i] > kMaxDim) {
      fault(fmt::format("each dimension of tensor {} must be in 0..{}", shown, kMaxDim),
            fmt::format("{}", shape[i]));
    }
    if (strides[i] < 0) fault(fmt::format("tensor {} must not run backwards", shown), "a negative stride");
    empty = empty || shape[i] == 0;
    int64_t reach = 0;
    fits = fits && checked_mul(n, std::max<int64_t>(1, shape[i]), &n) &&
           checked_mul(strides[i], std::max<int64_t>(1, shape[i]) - 1, &reach) && checked_add(last, reach, &last);
  }
  if (empty) n = 0;
  if (!fits || n > held || (empty ? offset > held : last >= held)) {
    fault(fmt::format("tensor {} of shape {{{}}} must lie in its storage of {} elements", shown,
                      fmt::join(shape, ", "), held),
          fits ? fmt::format("{} elements, the last of them number {}", n, last) : "sizes that overflow",
          "save clones: {k: v.clone() for k, v in state.items()}");
  }
  const auto begin = static_cast<size_t>(offset * width);
  const auto length = empty ? 0 : static_cast<size_t>((last - offset + 1) * width);
  return {std::move(group), std::move(name),    dtype,
          std::move(shape), std::move(strides), storage.substr(begin, length)};
}

void refuse_partial_overlap(const std::vector<WeightTensor>& tensors, const ModelFault& fault) {
  std::map<std::string_view, std::vector<const WeightTensor*>> groups;
  for (const WeightTensor& t : tensors) {
    if (!t.bytes.empty()) groups[t.group].push_back(&t);
  }
  for (auto& [group, list] : groups) {
    std::sort(list.begin(), list.end(), [](const WeightTensor* a, const WeightTensor* b) {
      return std::tuple(a->bytes.data(), a->bytes.size()) < std::tuple(b->bytes.data(), b->bytes.size());
    });
    for (size_t i = 1; i < list.size(); i++) {
      const WeightTensor &a = *list[i - 1], &b = *list[i];
      if (a.bytes.data() == b.bytes.data() && a.bytes.size() == b.bytes.size()) continue;
      if (b.bytes.data() < a.bytes.data() + a.bytes.size()) {
        fault("tensors must not share a part of their storage",
              fmt::format("{} and {}", shown_name(a.name), shown_name(b.name)),
              "save clones: {k: v.clone() for k, v in state.items()}");
      }
    }
  }
}

void require_plain_name(std::string_view name, const ModelFault& fault) {
  if (is_valid_utf8(name) && std::none_of(name.begin(), name.end(), [](char c) {
        return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
      })) {
    return;
  }
  fault("a tensor name must be UTF-8 without control characters", shown_name(name));
}

}  // namespace aspis
