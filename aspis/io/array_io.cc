#include "aspis/io/array_io.h"

#include <mlx/allocator.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cstring>

#include "aspis/base/error.h"

namespace aspis {

mx::Dtype to_mlx(TensorDtype dtype) {
  switch (dtype) {
    case TensorDtype::kBool: return mx::bool_;
    case TensorDtype::kU8: return mx::uint8;
    case TensorDtype::kI8: return mx::int8;
    case TensorDtype::kI16: return mx::int16;
    case TensorDtype::kU16: return mx::uint16;
    case TensorDtype::kF16: return mx::float16;
    case TensorDtype::kBF16: return mx::bfloat16;
    case TensorDtype::kI32: return mx::int32;
    case TensorDtype::kU32: return mx::uint32;
    case TensorDtype::kF32: return mx::float32;
    case TensorDtype::kF64: return mx::float64;
    case TensorDtype::kI64: return mx::int64;
    case TensorDtype::kU64: return mx::uint64;
  }
  throw Error(ErrorKind::kUsage, {.where = "to_mlx", .required = "a known dtype", .got = "another", .hint = {}});
}

TensorDtype to_tensor_dtype(mx::Dtype dtype) {
  switch (dtype.val()) {
    case mx::Dtype::Val::bool_: return TensorDtype::kBool;
    case mx::Dtype::Val::uint8: return TensorDtype::kU8;
    case mx::Dtype::Val::int8: return TensorDtype::kI8;
    case mx::Dtype::Val::int16: return TensorDtype::kI16;
    case mx::Dtype::Val::uint16: return TensorDtype::kU16;
    case mx::Dtype::Val::float16: return TensorDtype::kF16;
    case mx::Dtype::Val::bfloat16: return TensorDtype::kBF16;
    case mx::Dtype::Val::int32: return TensorDtype::kI32;
    case mx::Dtype::Val::uint32: return TensorDtype::kU32;
    case mx::Dtype::Val::float32: return TensorDtype::kF32;
    case mx::Dtype::Val::float64: return TensorDtype::kF64;
    case mx::Dtype::Val::int64: return TensorDtype::kI64;
    case mx::Dtype::Val::uint64: return TensorDtype::kU64;
    default: break;
  }
  throw Error(ErrorKind::kUsage, {.where = "dump_arrays",
                                  .required = "arrays must be real, integer or bool",
                                  .got = "complex64",
                                  .hint = "store its real and imaginary parts"});
}

mx::array to_array(const TensorView& tensor) {
  mx::Shape shape;
  for (const int64_t dim : tensor.shape) shape.push_back(static_cast<mx::ShapeElem>(dim));
  // MLX does not check its allocations; a null pointer would be written to.
  mx::allocator::Data data = mx::allocator::malloc(tensor.bytes.size());
  void* target = data.buffer().raw_ptr();
  if (!tensor.bytes.empty()) {
    require(
        target != nullptr,
        [&] {
          return Error::Parts{.where = tensor.name,
                              .required = "memory must hold the tensor",
                              .got = std::to_string(tensor.bytes.size()) + " bytes that could not be allocated",
                              .hint = {}};
        },
        ErrorKind::kDevice);
    std::memcpy(target, tensor.bytes.data(), tensor.bytes.size());
  }
  return mx::array(std::move(data), std::move(shape), to_mlx(tensor.dtype));
}

NamedArrays load_arrays(std::string_view bytes, std::string_view where, std::map<std::string, std::string>* metadata) {
  Safetensors file = parse_safetensors(bytes, where);
  NamedArrays arrays;
  arrays.reserve(file.tensors.size());
  for (TensorView& t : file.tensors) {
    mx::array a = to_array(t);
    arrays.emplace_back(std::move(t.name), std::move(a));
  }
  if (metadata) *metadata = std::move(file.metadata);
  return arrays;
}

std::string dump_arrays(const NamedArrays& arrays, const std::map<std::string, std::string>& metadata) {
  // A CPU stream also packs float64, which a GPU stream refuses.
  std::vector<mx::array> packed;
  packed.reserve(arrays.size());
  for (const auto& [name, a] : arrays) {
    to_tensor_dtype(a.dtype());
    packed.push_back(mx::contiguous(a, /* allow_col_major = */ false, mx::Device::cpu));
  }
  mx::eval(packed);
  std::vector<TensorView> views;
  views.reserve(arrays.size());
  for (size_t i = 0; i < arrays.size(); i++) {
    const mx::array& a = packed[i];
    TensorView v;
    v.name = arrays[i].first;
    v.dtype = to_tensor_dtype(a.dtype());
    v.shape.assign(a.shape().begin(), a.shape().end());
    if (a.nbytes() > 0) v.bytes = std::string_view(a.data<char>(), a.nbytes());
    views.push_back(std::move(v));
  }
  return write_safetensors(std::move(views), metadata);
}

}  // namespace aspis
