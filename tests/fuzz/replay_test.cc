#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "aspis/base/file.h"
#include "tests/fuzz/targets.h"

namespace fs = std::filesystem;

namespace {

// Runs every file of a corpus; the count keeps the folder from going missing
// unnoticed.
template <typename Target>
void replay(const char* name, size_t at_least, Target&& target) {
  std::vector<fs::path> files;
  for (const auto& e : fs::directory_iterator(fs::path(ASPIS_SOURCE_DIR) / "tests/fuzz/corpus" / name)) {
    files.push_back(e.path());
  }
  std::sort(files.begin(), files.end());
  CHECK(files.size() >= at_least);
  for (const auto& file : files) {
    CAPTURE(file);
    const std::string bytes = aspis::read_file(file);
    CHECK_NOTHROW(target(bytes));
  }
}

}  // namespace

TEST_CASE("the safetensors corpus of the fuzzer gives no surprise") {
  replay("safetensors", 8, [](const std::string& bytes) { aspis::fuzz::safetensors(bytes); });
}

TEST_CASE("the config corpus of the fuzzer gives no surprise") {
  replay("config", 6, [](const std::string& bytes) { aspis::fuzz::config(bytes); });
}

TEST_CASE("the picture corpus of the fuzzer gives no surprise") {
  replay("image", 10, [](const std::string& bytes) { aspis::fuzz::image(bytes); });
}

TEST_CASE("the IDX corpus of the fuzzer gives no surprise") {
  replay("idx", 6, [](const std::string& bytes) { aspis::fuzz::idx(bytes); });
}

TEST_CASE("the corpora of weight files, pickles and arrays give no surprise") {
  replay("weights", 8, [](const std::string& bytes) { aspis::fuzz::weights(bytes); });
  replay("pickle", 8, [](const std::string& bytes) { aspis::fuzz::pickle(bytes); });
  replay("npy", 6, [](const std::string& bytes) { aspis::fuzz::npy(bytes); });
}

TEST_CASE("the NIfTI corpus of the fuzzer gives no surprise") {
  replay("nifti", 12, [](const std::string& bytes) { aspis::fuzz::nifti(bytes); });
}
