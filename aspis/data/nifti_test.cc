#include "aspis/data/nifti.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>

#include "aspis/data/test_support.h"
#include "aspis/data/transform.h"

namespace aspis::data {
namespace {

/// Fields of a NIfTI-1 header that a case changes.
struct Header {
  std::vector<int16_t> dim = {3, 4, 3, 2};
  int16_t type = 2, bits = 8;
  float offset = 352, slope = 1, intercept = 0;
  const char* magic = "n+1";
  int32_t size = 348;
  bool big_endian = false;
};

template <typename T>
void put(std::string& to, size_t at, T value, bool big_endian) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  for (size_t i = 0; i < sizeof(T); ++i) to[at + i] = bytes[big_endian ? sizeof(T) - 1 - i : i];
}

std::string nifti(const Header& h, std::string_view data) {
  std::string file(352, '\0');
  const bool big = h.big_endian;
  put(file, 0, h.size, big);
  for (size_t i = 0; i < h.dim.size(); ++i) put(file, 40 + 2 * i, h.dim[i], big);
  put(file, 70, h.type, big);
  put(file, 72, h.bits, big);
  for (size_t i = 0; i < 8; ++i) put(file, 76 + 4 * i, static_cast<float>(i), big);
  put(file, 108, h.offset, big);
  put(file, 112, h.slope, big);
  put(file, 116, h.intercept, big);
  std::memcpy(file.data() + 344, h.magic, 4);
  return file + std::string(data);
}

template <typename T>
std::string values(const std::vector<T>& list, bool big_endian = false) {
  std::string bytes(list.size() * sizeof(T), '\0');
  for (size_t i = 0; i < list.size(); ++i) put(bytes, i * sizeof(T), list[i], big_endian);
  return bytes;
}

std::string refused(const std::string& file) {
  return error_of(ErrorKind::kData, [&] { parse_nifti(file, "scan.nii"); });
}

const std::string kBytes = [] {
  std::string s(24, '\0');
  std::iota(s.begin(), s.end(), '\0');
  return s;
}();

template <typename T>
void check_type(int16_t type) {
  for (const bool big : {false, true}) {
    CAPTURE(type);
    const std::vector<T> list = {T(0), T(1), T(100), T(7)};
    Header h;
    h.dim = {3, 2, 2, 1};
    h.type = type;
    h.bits = static_cast<int16_t>(8 * sizeof(T));
    h.big_endian = big;
    CHECK(parse_nifti(nifti(h, values(list, big)), "x").values == std::vector<float>{0, 1, 100, 7});
  }
}

/// A folder of labelled volumes: part 1 is a bright ball, part 2 a dark one.
void write_volumes(const TempFolder& folder, int subjects, bool compressed) {
  for (int s = 0; s < subjects; ++s) {
    const int64_t n[3] = {20 + s, 30, 20};  // z, y, x
    std::vector<uint8_t> image, label;
    for (int64_t z = 0; z < n[0]; ++z) {
      for (int64_t y = 0; y < n[1]; ++y) {
        for (int64_t x = 0; x < n[2]; ++x) {
          const auto near = [&](int64_t cy) {
            return (z - 10) * (z - 10) + (y - cy) * (y - cy) + (x - 9) * (x - 9) <= 16;
          };
          label.push_back(near(20) ? 1 : near(9) ? 2 : 0);
          image.push_back(static_cast<uint8_t>(near(20) ? 200 + s : near(9) ? 20 : 100 + (x + y + z) % 3));
        }
      }
    }
    Header h;
    h.dim = {3, static_cast<int16_t>(n[2]), static_cast<int16_t>(n[1]), static_cast<int16_t>(n[0])};
    const std::string ending = compressed ? ".nii.gz" : ".nii";
    const auto file = [&](const std::vector<uint8_t>& v) {
      const std::string bytes = nifti(h, values(v));
      return compressed ? gzip(bytes) : bytes;
    };
    folder.write(fmt::format("images/s_{:02d}{}", s, ending), file(image));
    folder.write(fmt::format("labels/s_{:02d}{}", s, ending), file(label));
  }
}

TEST_CASE("a volume has its sizes with the fastest axis last, and its spacing") {
  const Volume v = parse_nifti(nifti({}, kBytes), "x");
  CHECK(v.shape == std::vector<int64_t>{2, 3, 4});
  CHECK(v.spacing == std::array<double, 3>{3, 2, 1});
  for (size_t i = 0; i < 24; ++i) CHECK(v.values[i] == static_cast<float>(i));
  CHECK(parse_nifti(gzip(nifti({}, kBytes)), "x").values == v.values);
  // Trailing axes of one entry go, others stay; fewer than three are filled up.
  Header h;
  h.dim = {5, 4, 3, 1, 2, 1};
  CHECK(parse_nifti(nifti(h, kBytes), "x").shape == std::vector<int64_t>{2, 1, 3, 4});
  h.dim = {1, 24};
  CHECK(parse_nifti(nifti(h, kBytes), "x").shape == std::vector<int64_t>{1, 1, 24});
}

TEST_CASE("every type is read in both byte orders") {
  check_type<uint8_t>(2);
  check_type<int16_t>(4);
  check_type<int32_t>(8);
  check_type<float>(16);
  check_type<double>(64);
  check_type<int8_t>(256);
  check_type<uint16_t>(512);
  check_type<uint32_t>(768);
  check_type<int64_t>(1024);
  check_type<uint64_t>(1280);
}

TEST_CASE("slope and intercept are applied, and a slope of zero means none") {
  Header h;
  h.slope = 0.5f;
  h.intercept = 3;
  CHECK(parse_nifti(nifti(h, kBytes), "x").values[10] == 8);
  h.slope = 0;
  CHECK(parse_nifti(nifti(h, kBytes), "x").values[10] == 10);
}

TEST_CASE("the second version of the format is read") {
  std::string file(544, '\0');
  put<int32_t>(file, 0, 540, false);
  std::memcpy(file.data() + 4, "n+2\0\r\n\x1a\n", 8);
  put<int16_t>(file, 12, 16, false);
  put<int16_t>(file, 14, 32, false);
  const int64_t dim[] = {3, 2, 1, 2, 1, 1, 1, 1};
  for (size_t i = 0; i < 8; ++i) put(file, 16 + 8 * i, dim[i], false);
  put<int64_t>(file, 168, 544, false);
  put(file, 176, 2.0, false);
  put(file, 184, 1.0, false);
  const Volume v = parse_nifti(file + values<float>({1, 2, 3, 4}), "x");
  CHECK(v.shape == std::vector<int64_t>{2, 1, 2});
  CHECK(v.values == std::vector<float>{3, 5, 7, 9});
  CHECK(v.spacing == std::array<double, 3>{1, 1, 1});  // zeros in the file
  put<int64_t>(file, 24, int64_t{1} << 40, false);
  put<int64_t>(file, 32, int64_t{1} << 40, false);
  CHECK(contains(refused(file), "at most"));
}

TEST_CASE("headers that promise what cannot be are refused before anything is allocated") {
  Header h;
  h.dim = {3, 32767, 32767, 17};  // 18 GB in 377 bytes
  CHECK(contains(refused(nifti(h, std::string(25, 'x'))), "at most"));
  h.dim = {3, 2000, 2000, 100};
  CHECK(contains(refused(nifti(h, kBytes)), "probably cut off"));
  CHECK(contains(refused(gzip(nifti(h, kBytes))), "probably cut off"));
  h.dim = {200, 2, 2, 2};
  CHECK(contains(refused(nifti(h, kBytes)), "1 to 7; got 200"));
  h.dim = {3, 2, -2, 2};
  CHECK(contains(refused(nifti(h, kBytes)), "at least 1; got -2 of axis 2"));
  h = {};
  for (const float offset : {0.0f, 351.0f, 352.5f, 1e30f, -352.0f, INFINITY, NAN}) {
    h.offset = offset;
    CHECK(contains(refused(nifti(h, kBytes)), "data must begin"));
  }
  h = {};
  h.offset = 368;
  CHECK(contains(refused(nifti(h, kBytes)), "probably cut off"));
  CHECK(parse_nifti(nifti(h, std::string(16, 'e') + kBytes), "x").values[5] == 5);
  h = {};
  h.bits = 32;
  CHECK(contains(refused(nifti(h, kBytes)), "type 2 has 8 bits; got 32"));
  h.type = 32;
  CHECK(contains(refused(nifti(h, kBytes)), "complex"));
  h.type = 128;
  CHECK(contains(refused(nifti(h, kBytes)), "colour"));
  h = {};
  h.slope = NAN;
  CHECK(contains(refused(nifti(h, kBytes)), "finite"));
  h = {};
  h.magic = "ni1";
  CHECK(contains(refused(nifti(h, kBytes)), "pair"));
  h.magic = "nii";
  CHECK(contains(refused(nifti(h, kBytes)), "n+1"));
  h = {};
  h.size = 349;
  CHECK(contains(refused(nifti(h, kBytes)), "348 or 540"));
  CHECK(contains(refused("short"), "348 bytes"));
  CHECK(contains(refused(""), "scan.nii"));
}

TEST_CASE("no truncation and no changed byte of a volume does harm") {
  const auto read = [](std::string_view bytes) {
    const Volume v = parse_nifti(bytes, "x");
    const auto size = std::accumulate(v.shape.begin(), v.shape.end(), int64_t{1}, std::multiplies<>());
    if (size != static_cast<int64_t>(v.values.size())) FAIL("wrong size");
  };
  CHECK(damage_everywhere(nifti({}, kBytes), read) == 0);
  // The last eight bytes of a gzip file are its checksum, which is not asked for once all values are there.
  CHECK(damage_everywhere(gzip(nifti({}, kBytes)), read) <= 9);
}

TEST_CASE("cubes of labelled volumes show one part each, by subject and seed") {
  for (const bool compressed : {false, true}) {
    const TempFolder folder;
    write_volumes(folder, 10, compressed);
    const std::string spec = folder.spec("hippocampus");
    const DatasetPtr train = open_dataset(spec, Split::kTrain), val = open_dataset(spec, Split::kVal),
                     test = open_dataset(spec, Split::kTest);
    CHECK(train->size() == 6 * 24);
    CHECK(val->size() == 2 * 12);
    CHECK(test->size() == 2 * 12);
    CHECK(train->geometry() == Geometry{256, 16, 1, 16});
    CHECK(train->sample_name(0) == (compressed ? "s_00.nii.gz[0]" : "s_00.nii[0]"));
    CHECK(val->sample_name(0) == (compressed ? "s_03.nii.gz[0]" : "s_03.nii[0]"));
    for (int64_t i = 0; i < train->size(); ++i) {
      const Sample s = train->get(i);
      CHECK(s.label == i % 2);
      CHECK(s.label == train->label(i));
      CHECK(s.image == train->get(i).image);
      // The middle belongs to the part, whose ball is the brightest or the darkest of all.
      const uint8_t middle = s.image.row(8 * 16 + 8)[8];
      CHECK(middle == (s.label == 0 ? *std::max_element(s.image.pixels.begin(), s.image.pixels.end()) : 0));
    }
    CHECK(train->get(0).image != train->get(2).image);  // another place
    DatasetOptions other;
    other.seed = 1;
    CHECK(train->get(0).image != open_dataset(spec, Split::kTrain, other)->get(0).image);
  }
}

TEST_CASE("slices of a pile do not run into each other when shifted") {
  const TempFolder folder;
  write_volumes(folder, 5, false);
  const DatasetPtr set = open_dataset(folder.spec("hippocampus"), Split::kTrain);
  TransformOptions o;
  o.crop_padding = 3;
  const Transform transform(o, *set);
  CHECK(transform.options().slices == 16);
  // Slice k holds the value k + 1: a shifted pile has that or zero in slice k.
  Image pile(256, 16, 1);
  for (int y = 0; y < 256; ++y) std::fill_n(pile.row(y), 16, static_cast<uint8_t>(y / 16 + 1));
  std::vector<float> out(256 * 16);
  int zeros = 0;
  for (int64_t i = 0; i < 20; ++i) {
    transform.write_augmented(pile, 0, i, out.data());
    for (size_t k = 0; k < out.size(); ++k) {
      const float want = static_cast<float>(k / 256 + 1) / 255.0f;
      REQUIRE((out[k] == want || out[k] == 0));
      zeros += out[k] == 0;
    }
  }
  CHECK(zeros > 0);
  o.height = 128;
  o.width = 16;
  CHECK(
      contains(error_of(ErrorKind::kUsage, [&] { Transform(o, *set); }), "volumes keep their size, 16 x 16 x 16"));
}

TEST_CASE("folders of volumes that do not fit are refused by name") {
  const TempFolder folder;
  const auto message = [&] {
    return error_of(ErrorKind::kData, [&] { open_dataset(folder.spec("hippocampus"), Split::kTrain); });
  };
  CHECK(contains(message(), "images"));
  write_volumes(folder, 5, false);
  Header h;
  h.dim = {3, 20, 30, 20};
  folder.write("labels/s_00.nii", nifti(h, std::string(20 * 30 * 20, '\3')));
  CHECK(contains(message(), "labels must be 0, 1 or 2; got 3"));
  folder.write("labels/s_00.nii", nifti(h, std::string(20 * 30 * 20, '\1')));
  CHECK(contains(message(), "no 2"));
  folder.write("labels/s_00.nii", nifti({}, kBytes));
  CHECK(contains(message(), "sizes of the image"));
  std::filesystem::remove(folder.path() / "labels/s_00.nii");
  CHECK(contains(message(), "s_00.nii"));
}

TEST_CASE(
    "the hippocampus volumes of the Medical Segmentation Decathlon, where ASPIS_HIPPOCAMPUS names their folder") {
  const char* path = std::getenv("ASPIS_HIPPOCAMPUS");
  if (!path) {
    MESSAGE("skipped: ASPIS_HIPPOCAMPUS is not set");
    return;
  }
  const DatasetPtr test = open_dataset(fmt::format("hippocampus:{}", path), Split::kTest);
  CHECK(test->size() % 12 == 0);
  const DatasetReport report = inspect(*test);
  CHECK(report.damaged.empty());
  CHECK(report.per_class[0] == report.per_class[1]);
  CHECK(report.stats.mean[0] > 0.2);
  CHECK(report.stats.std[0] > 0.1);
}

}  // namespace
}  // namespace aspis::data
