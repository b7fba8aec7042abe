#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/base/error.h"
#include "aspis/data/idx.h"
#include "aspis/data/image.h"
#include "aspis/data/nifti.h"
#include "aspis/io/config_json.h"
#include "aspis/io/npy.h"
#include "aspis/io/safetensors.h"
#include "aspis/io/test_archives.h"
#include "aspis/io/weight_file.h"

/// What each fuzzer does with an input, shared with the test that replays the
/// corpus. Only aspis::Error may leave a reader; a broken promise aborts.
namespace aspis::fuzz {

inline void promise(bool ok) {
  if (!ok) std::abort();
}

/// Whatever is accepted lies inside the buffer, covers it, and is written back
/// to a file that reads the same.
inline void safetensors(std::string_view bytes) {
  Safetensors s;
  try {
    s = parse_safetensors(bytes, "fuzz");
  } catch (const Error& e) {
    promise(e.kind() == ErrorKind::kModel && std::string_view(e.what()).size() < 1000);
    return;
  }
  size_t total = 0;
  for (const TensorView& t : s.tensors) {
    int64_t size = size_of(t.dtype);
    for (const int64_t dim : t.shape) size *= dim;
    promise(size == static_cast<int64_t>(t.bytes.size()));
    promise(t.bytes.data() >= bytes.data() && t.bytes.data() + t.bytes.size() <= bytes.data() + bytes.size());
    total += t.bytes.size();
  }
  promise(total <= bytes.size());
  const std::string once = write_safetensors(s.tensors, s.metadata);
  const Safetensors again = parse_safetensors(once, "again");
  promise(write_safetensors(again.tensors, again.metadata) == once);
}

/// A tensor has the bytes of its shape, and they can be gathered.
inline void tensor(const WeightTensor& t) {
  std::string buffer;
  const TensorView v = t.packed(buffer);
  promise(t.shape.size() <= 8 && t.strides.size() == t.shape.size());
  promise(static_cast<int64_t>(v.bytes.size()) == t.elements() * size_of(t.dtype));
}

/// Whatever is accepted as weights is small in memory: a tensor has no more
/// elements than its storage.
inline void weights(std::string_view bytes) {
  try {
    const WeightFile f = WeightFile::parse(std::string(bytes), "fuzz");
    for (const WeightTensor& t : f.tensors()) tensor(t);
    promise(f.groups().size() <= f.tensors().size());
  } catch (const Error& e) {
    promise(e.kind() == ErrorKind::kModel && std::string_view(e.what()).size() < 2000);
  }
}

/// The same for the pickle of a checkpoint, which checksums would keep out of reach.
inline void pickle(std::string_view bytes) {
  weights(test::torch_zip(std::string(bytes), {std::string(24, 'a'), std::string(8, 'b')}));
}

/// An array of numpy.
inline void npy(std::string_view bytes) {
  try {
    const WeightTensor t = parse_npy(bytes, "a", "fuzz");
    promise(t.bytes.data() >= bytes.data() && t.bytes.data() + t.bytes.size() <= bytes.data() + bytes.size());
    tensor(t);
  } catch (const Error& e) {
    promise(e.kind() == ErrorKind::kModel && std::string_view(e.what()).size() < 2000);
  }
}

/// Every kind of question asked of whatever JSON comes.
inline void config(std::string_view bytes) {
  try {
    ConfigReader r(bytes, "fuzz");
    const auto ask = [](auto&& question) {
      try {
        question();
      } catch (const Error& e) {
        promise(e.kind() == ErrorKind::kModel);
      }
    };
    int64_t i = 1;
    double d = 0.5;
    bool b = false;
    std::string s;
    std::vector<int64_t> is;
    std::vector<double> ds;
    std::vector<std::string> ss;
    for (const char* key : {"a", "b", "d_state"}) {
      ask([&] { r.integer(key, i, 1, 1024); });
      ask([&] { r.number(key, d, 0, 1); });
      ask([&] { r.flag(key, b); });
      ask([&] { r.text(key, s); });
      ask([&] { r.choice(key, s, {"mean", "cls"}); });
      ask([&] { r.integers(key, is, 0, 9); });
      ask([&] { r.numbers(key, ds, 0, 9); });
      ask([&] { r.texts(key, ss); });
      ask([&] { r.object(key).object("a").refuse_unknown(); });
      promise(i >= 1 && i <= 1024 && d >= 0 && d <= 1);
    }
    ask([&] { r.refuse_unknown(); });
    ConfigWriter w;
    w.keep_unknown(r);
    const std::string text = w.text();
    ConfigWriter again;
    again.keep_unknown(ConfigReader(text, "again"));
    promise(again.text() == text);
  } catch (const Error& e) {
    promise(e.kind() == ErrorKind::kModel);
  }
}

/// A picture has the size it says and is written to a PNG that reads the same.
inline void image(std::string_view bytes) {
  // Small limits, so that a header cannot ask for more than the fuzzer may have.
  const data::ImageLimits limits{
      .max_side = 4096, .max_pixels = 1 << 20, .max_decoder_bytes = 1 << 26, .max_scans = 20};
  data::Image picture;
  try {
    picture = data::decode_image(bytes, "fuzz", limits);
  } catch (const Error& e) {
    promise(e.kind() == ErrorKind::kData && std::string_view(e.what()).size() < 1000);
    return;
  }
  promise(picture.height > 0 && picture.width > 0 && (picture.channels == 1 || picture.channels == 3));
  promise(static_cast<int64_t>(picture.pixels.size()) == picture.height * picture.row_bytes());
  promise(data::decode_image(data::encode_png(picture), "again") == picture);
}

/// An array has as many values as its shape says.
inline void idx(std::string_view bytes) {
  data::IdxArray a;
  try {
    a = data::parse_idx(bytes, "fuzz");
  } catch (const Error& e) {
    promise(e.kind() == ErrorKind::kData && std::string_view(e.what()).size() < 1000);
    return;
  }
  int64_t size = 1;
  for (const int64_t d : a.shape) size *= d;
  promise(!a.shape.empty() && a.shape.size() <= 4 && size == static_cast<int64_t>(a.values.size()));
}

/// A volume has as many values as its sizes say, and no axis is empty.
inline void nifti(std::string_view bytes) {
  data::Volume v;
  try {
    v = data::parse_nifti(bytes, "fuzz", {.max_file_bytes = 1 << 24, .max_values = 1 << 22});
  } catch (const Error& e) {
    promise(e.kind() == ErrorKind::kData && std::string_view(e.what()).size() < 1000);
    return;
  }
  int64_t size = 1;
  for (const int64_t d : v.shape) size *= d;
  promise(v.shape.size() >= 3 && v.shape.size() <= 7 && size >= 1 &&
          size == static_cast<int64_t>(v.values.size()));
  for (const double s : v.spacing) promise(s > 0);
}

}  // namespace aspis::fuzz
