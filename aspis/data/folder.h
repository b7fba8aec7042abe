#pragma once

#include "aspis/data/dataset.h"

namespace aspis::data {

/// Which splits a picture folder holds. A folder with a sub-folder `train` holds
/// `train`, `val` (or `valid`, `validation`) and `test`, each with one sub-folder
/// per class; otherwise its sub-folders are the classes and it is all `train`.
struct FolderLayout {
  std::filesystem::path train, val, test;  ///< empty where absent
};
FolderLayout folder_layout(const std::filesystem::path& root);

/// The pictures (.png, .jpg, .jpeg in any case) below the class folders of one
/// split. Classes and pictures are ordered by the bytes of their names; hidden
/// files are skipped, other files skipped and counted in the log. The classes of
/// val and test must be those of train. Throws `Error(kData)`.
DatasetPtr open_folder(const std::filesystem::path& root, std::string name, Split split);

}  // namespace aspis::data
