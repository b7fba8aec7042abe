#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/io/weight_tensor.h"
#include "aspis/io/zip.h"

namespace aspis {

/// The tensors of a file of torch.save, and the plain values at its top level
/// ("epoch", "arch").
struct TorchFile {
  std::vector<WeightTensor> tensors;  ///< in the order of the pickle
  std::map<std::string, std::string> facts;
};

/// Reads a zip checkpoint of torch.save (format versions up to 10): one folder
/// with data.pkl, data/<key> and version. Nothing of the pickle is run: it may
/// hold plain values, dicts of them, tensors over typed storages, and the few
/// classes of plain data that training programs put beside the weights (see the
/// list in torch_file.cc), of which nothing is used. Every other global is
/// refused by its name. Storages must be stored as they are, with a correct CRC
/// and the size that the pickle says. Views into `zip`'s buffer. Throws
/// Error(kModel).
TorchFile read_torch_zip(const ZipArchive& zip, std::string_view where);

/// The format of before PyTorch 1.6, with the same rules: pickles of a magic
/// number, a version, the machine, the content and the storages' keys, then each
/// storage as a 64-bit length and its elements, up to the end of the file.
TorchFile read_torch_legacy(std::string_view bytes, std::string_view where);

/// True if `bytes` begin like such a file.
bool looks_like_torch_legacy(std::string_view bytes);

}  // namespace aspis
