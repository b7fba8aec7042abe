#include "aspis/cli/pictures.h"

#include <fmt/format.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <iostream>

#include "aspis/data/loader.h"

namespace aspis::cli {
namespace {

namespace fs = std::filesystem;

bool looks_like_image(const fs::path& p) {
  std::string ext = p.extension().string();
  std::transform(ext.begin(), ext.end(), ext.begin(),
                 [](unsigned char ch) { return static_cast<char>(std::tolower(ch)); });
  return ext == ".png" || ext == ".jpg" || ext == ".jpeg";
}

const train::Classifier& flat(const train::Classifier& c) {
  require(c.model->input_shape().size() == 3, [&] {
    return Error::Parts{.where = "--model",
                        .required = "a model of flat pictures is needed",
                        .got = c.model_name + ", one of volumes",
                        .hint = "aspis eval"};
  });
  return c;
}

}  // namespace

std::vector<fs::path> list_pictures(const std::vector<std::string>& paths) {
  std::vector<fs::path> files;
  for (const auto& p : paths) {
    if (p == "-") {
      for (std::string line; std::getline(std::cin, line);) {
        if (!line.empty()) files.emplace_back(line);
      }
      continue;
    }
    std::error_code ec;
    if (!fs::exists(p, ec)) {
      throw Error(ErrorKind::kData,
                  {.where = p, .required = "a picture or a folder of pictures is needed", .got = "nothing there"});
    }
    if (!fs::is_directory(p, ec)) {
      files.emplace_back(p);
      continue;
    }
    const size_t before = files.size();
    for (const auto& entry : fs::recursive_directory_iterator(p, ec)) {
      if (entry.is_regular_file(ec) && looks_like_image(entry.path())) files.push_back(entry.path());
    }
    if (files.size() == before) {
      throw Error(ErrorKind::kData,
                  {.where = p, .required = "a folder with .png or .jpg files is needed", .got = "none in it"});
    }
    std::sort(files.begin() + static_cast<std::ptrdiff_t>(before), files.end());
  }
  return files;
}

void add_picture_options(CLI::App* command, PictureOptions& options) {
  command->add_option("paths", options.paths, "Pictures (PNG, JPEG), folders, or - for a list of files on stdin")
      ->required();
  add_option(command, "--batch", options.batch, "Pictures worked on at a time")->check(CLI::Range(1, 65536));
  add_option(command, "--on-bad-sample", options.on_bad_sample, "A file that is no picture: error or skip");
}

PictureReader::PictureReader(const train::Classifier& classifier, const PictureOptions& options)
    : classifier_(flat(classifier)),
      files_(list_pictures(options.paths)),
      transform_(classifier.preprocessing.transform()),
      batch_(options.batch),
      skip_(data::parse_on_bad_sample(options.on_bad_sample) == data::OnBadSample::kSkip) {}

bool PictureReader::next(PictureBatch& batch) {
  batch = {};
  const int64_t values = transform_.values();
  for (; at_ < files_.size() && batch.size() < batch_ && !interrupted(); at_++) {
    try {
      data::Image image = transform_.prepare(data::read_image(files_[at_]));
      batch.values.resize(batch.values.size() + static_cast<size_t>(values));
      transform_.write(image, batch.values.data() + batch.size() * values);
      batch.files.push_back(files_[at_]);
      batch.prepared.push_back(std::move(image));
      read_++;
    } catch (const Error& e) {
      if (!skip_) throw;
      skipped_++;
      print_err(fmt::format("warning: {}\n", e.what()));
    }
  }
  return batch.size() > 0 && !interrupted();
}

mlx::core::array PictureReader::input(const PictureBatch& batch) const {
  const auto& p = classifier_.preprocessing;
  return train::image_array(batch.values, batch.size(), p.height, p.width, p.channels);
}

void PictureReader::require_some(const char* command) const {
  if (read_ > 0 || skipped_ == 0) return;
  throw Error(ErrorKind::kData, {.where = command,
                                 .required = "at least one readable picture is needed",
                                 .got = fmt::format("{} damaged ones", skipped_)});
}

std::vector<float> float_values(const mlx::core::array& a) {
  namespace mx = mlx::core;
  mx::array dense = mx::contiguous(mx::astype(a, mx::float32));
  dense.eval();
  return {dense.data<float>(), dense.data<float>() + dense.size()};
}

}  // namespace aspis::cli
