#include "aspis/data/folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "aspis/base/log.h"

namespace aspis::data {
namespace {

namespace fs = std::filesystem;

struct Entry {
  std::string file;  // relative to the split's folder
  int32_t label = 0;
};

[[noreturn]] void refuse(const fs::path& path, std::string required, std::string got, std::string hint = "") {
  throw Error(ErrorKind::kData, {.where = shown_path(path),
                                 .required = std::move(required),
                                 .got = std::move(got),
                                 .hint = std::move(hint)});
}

// Names in a folder, hidden ones left out, sorted by bytes.
std::vector<std::string> sorted_names(const fs::path& folder) {
  std::error_code error;
  std::vector<std::string> names;
  fs::directory_iterator it(folder, error), end;
  while (!error && it != end) {
    std::string name = it->path().filename().string();
    if (!name.starts_with('.')) names.push_back(std::move(name));
    it.increment(error);
  }
  if (error) refuse(folder, "the folder must be readable", error.message());
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> class_names(const fs::path& folder) {
  std::vector<std::string> classes;
  std::error_code error;
  for (std::string& name : sorted_names(folder)) {
    if (fs::is_directory(folder / name, error)) classes.push_back(std::move(name));
  }
  return classes;
}

bool is_picture_name(const std::string& name) {
  std::string ending = fs::path(name).extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return ending == ".png" || ending == ".jpg" || ending == ".jpeg";
}

class FolderDataset final : public Dataset {
 public:
  FolderDataset(std::string name, Split split, std::vector<std::string> classes, fs::path folder,
                std::vector<Entry> entries)
      : Dataset(std::move(name), split, std::move(classes), Geometry{}, shown_path(folder)),
        folder_(std::move(folder)),
        entries_(std::move(entries)) {}

  int64_t size() const override { return static_cast<int64_t>(entries_.size()); }
  int32_t label(int64_t index) const override { return entry(index).label; }
  Sample get(int64_t index) const override {
    const Entry& e = entry(index);
    return {read_image(folder_ / e.file), e.label};
  }
  std::string sample_name(int64_t index) const override { return shown_path(folder_ / entry(index).file); }

 private:
  const Entry& entry(int64_t index) const {
    check_index(index);
    return entries_[static_cast<size_t>(index)];
  }

  fs::path folder_;
  std::vector<Entry> entries_;
};

std::vector<Entry> list_pictures(const fs::path& folder, const std::vector<std::string>& classes, bool is_train) {
  std::vector<Entry> entries;
  int64_t others = 0;
  for (size_t c = 0; c < classes.size(); ++c) {
    const size_t before = entries.size();
    for (const std::string& file : sorted_names(folder / classes[c])) {
      if (is_picture_name(file)) {
        entries.push_back({classes[c] + "/" + file, static_cast<int32_t>(c)});
      } else {
        ++others;
      }
    }
    if (is_train && entries.size() == before) {
      refuse(folder / classes[c], "every class of the training split needs a picture (.png, .jpg, .jpeg)", "none",
             "add pictures or remove the folder");
    }
  }
  if (others > 0) {
    log_warning("data", fmt::format("{}: {} files or folders inside the classes are no .png, .jpg or .jpeg and "
                                    "were skipped",
                                    shown_path(folder), others));
  }
  if (entries.empty()) refuse(folder, "at least one picture (.png, .jpg, .jpeg) is required", "none");
  return entries;
}

// The first name that only one of two sorted lists holds.
std::string first_difference(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  std::vector<std::string> only;
  std::set_symmetric_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(only));
  return only.empty() ? "" : only.front();
}

}  // namespace

FolderLayout folder_layout(const fs::path& root) {
  std::error_code error;
  if (!fs::is_directory(root, error)) {
    refuse(root, "a folder of pictures is required", fs::exists(root, error) ? "a file" : "nothing of that name");
  }
  const auto first_of = [&](std::initializer_list<const char*> names) {
    for (const char* name : names) {
      if (fs::is_directory(root / name, error)) return root / name;
    }
    return fs::path();
  };
  FolderLayout layout{first_of({"train"}), first_of({"val", "valid", "validation"}), first_of({"test"})};
  if (layout.train.empty()) {
    if (!layout.val.empty() || !layout.test.empty()) {
      const fs::path& other = layout.val.empty() ? layout.test : layout.val;
      refuse(root, "a folder with splits needs one named 'train'",
             fmt::format("only '{}'", other.filename().string()));
    }
    layout.train = root;
  }
  return layout;
}

DatasetPtr open_folder(const fs::path& root, std::string name, Split split) {
  const FolderLayout layout = folder_layout(root);
  const std::vector<std::string> classes = class_names(layout.train);
  if (classes.empty()) {
    refuse(layout.train, "a folder of pictures needs one sub-folder per class", "none",
           "arrange the files as class/name.jpg");
  }
  if (classes.size() < 2) {
    refuse(layout.train, "at least two classes are required", fmt::format("one, '{}'", classes[0]));
  }
  const fs::path& folder = split == Split::kTrain ? layout.train : split == Split::kVal ? layout.val : layout.test;
  if (folder.empty()) {
    refuse(root, fmt::format("a folder '{}' is required for that split", to_string(split)), "none");
  }
  if (split != Split::kTrain) {
    const std::vector<std::string> own = class_names(folder);
    if (own != classes) {
      refuse(folder,
             fmt::format("split '{}' must have the {} classes of 'train'", to_string(split), classes.size()),
             fmt::format("{} classes; '{}' is in one of them only", own.size(), first_difference(own, classes)));
    }
  }
  std::vector<Entry> entries = list_pictures(folder, classes, split == Split::kTrain);
  return std::make_shared<FolderDataset>(std::move(name), split, classes, folder, std::move(entries));
}

}  // namespace aspis::data
