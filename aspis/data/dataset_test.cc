#include "aspis/data/dataset.h"

#include <algorithm>
#include <cstdlib>
#include <set>

#include "aspis/data/folder.h"
#include "aspis/data/idx.h"
#include "aspis/data/shapes.h"
#include "aspis/data/stats.h"
#include "aspis/data/test_support.h"

namespace aspis::data {
namespace {

std::string open_error(const std::string& spec, Split split, const DatasetOptions& options = {}) {
  return error_of(ErrorKind::kData, [&] { open_dataset(spec, split, options); });
}

// A folder of `count` pictures per class below `below`.
void write_class(const TempFolder& folder, const std::string& below, int count, int seed = 0) {
  for (int i = 0; i < count; ++i) {
    const Image image = formula_picture(8 + i, 10, i % 2 ? 3 : 1, static_cast<uint32_t>(seed + i));
    folder.write(fmt::format("{}/{:02}.png", below, i), encode_png(image));
  }
}

TEST_CASE("IDX is read raw and gzipped, in one and several members") {
  std::vector<uint8_t> values(2 * 3 * 4);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint8_t>(7 * i);
  const std::string raw = make_idx({2, 3, 4}, values);
  for (const std::string& file : {raw, gzip(raw), gzip(raw.substr(0, 20)) + gzip(raw.substr(20))}) {
    const IdxArray array = parse_idx(file, "x");
    CHECK(array.shape == std::vector<int64_t>{2, 3, 4});
    CHECK(array.values == values);
  }
}

TEST_CASE("damaged IDX gives one sentence") {
  const std::string raw = make_idx({2, 3, 4}, std::vector<uint8_t>(24, 9));
  const auto message = [](const std::string& bytes) {
    return error_of(ErrorKind::kData, [&] { parse_idx(bytes, "set/train"); });
  };
  CHECK(contains(message(raw.substr(0, 30)), "[set/train] the header promises 24 values; got a file of 30 bytes"));
  CHECK(contains(message(raw.substr(0, 3)), "magic number"));
  CHECK(contains(message(raw.substr(0, 9)), "3 sizes"));
  CHECK(contains(message("\x89PNG1234567890"), "got 89 50 4e 47"));
  CHECK(contains(message(raw + "x"), "must end after 24 values"));
  CHECK(contains(message(gzip(raw + "x")), "must end after 24 values"));
  CHECK(contains(message(gzip(raw).substr(0, 30)), "gzip stream"));
  CHECK(contains(message(gzip(raw.substr(0, 36))), "cut off"));
  std::string wrong_checksum = gzip(raw);
  wrong_checksum[wrong_checksum.size() - 6] ^= 1;
  CHECK(contains(message(wrong_checksum), "incorrect data check"));
  // Sizes whose product wraps to a small number in 64 bits, and one that no such file can hold.
  CHECK(contains(message(make_idx({0x80000000, 0x80000000, 4}, {1, 2})), "at most"));
  CHECK(contains(message(make_idx({1 << 30}, {1, 2})), "promises 1073741824"));
  CHECK(contains(message(gzip(make_idx({1 << 30}, {1, 2}))), "promises 1073741824"));
}

TEST_CASE("no truncation and no changed byte of IDX does harm") {
  const std::string raw = make_idx({3, 4, 2}, std::vector<uint8_t>(24, 5));
  const auto read = [](std::string_view bytes) {
    const IdxArray array = parse_idx(bytes, "x");
    int64_t product = 1;
    for (const int64_t n : array.shape) product *= n;
    if (product != static_cast<int64_t>(array.values.size())) FAIL("wrong size");
  };
  CHECK(damage_everywhere(raw, read) == 0);
  CHECK(damage_everywhere(gzip(raw), read) == 0);
}

TEST_CASE("a folder of IDX files opens as train and test") {
  for (const bool compressed : {false, true}) {
    const TempFolder folder;
    write_idx_set(folder, 12, 7, 6, 5, 3, compressed);
    const DatasetPtr train = open_dataset(folder.spec("idx"), Split::kTrain);
    CHECK(train->size() == 12);
    CHECK(train->classes() == std::vector<std::string>{"0", "1", "2"});
    CHECK(train->geometry() == Geometry{6, 5, 1});
    CHECK(train->in_memory());
    CHECK(train->get(7).label == 1);
    CHECK(train->get(7).image == formula_picture(6, 5, 1, 7));
    CHECK(contains(train->describe(), "(train): 12 pictures, 3 classes, 6 x 5 x 1"));
    CHECK(open_dataset(folder.spec("idx"), Split::kTest)->get(2).image == formula_picture(6, 5, 1, 1002));
    CHECK(open_eval_dataset(folder.spec("idx"))->split() == Split::kTest);
    error_of(ErrorKind::kUsage, [&] { train->get(12); });
    error_of(ErrorKind::kUsage, [&] { train->get(-1); });
  }
}

TEST_CASE("an IDX folder that does not fit together gives one sentence") {
  const TempFolder folder;
  const std::string spec = folder.spec("idx");
  CHECK(contains(open_error(spec, Split::kTrain), "needs the file train-images-idx3-ubyte"));
  write_idx_set(folder, 12, 6);
  SUBCASE("counts differ") {
    folder.write("train-labels-idx1-ubyte", make_idx({11}, std::vector<uint8_t>(11, 1)));
    CHECK(contains(open_error(spec, Split::kTrain), "as many labels as pictures; got 11 labels for 12 pictures"));
  }
  SUBCASE("a label beyond the classes") {
    folder.write("t10k-labels-idx1-ubyte", make_idx({6}, {0, 1, 2, 9, 0, 1}));
    CHECK(contains(open_error(spec, Split::kTest), "labels must lie in 0 to 2; got 9 at sample 3"));
  }
  SUBCASE("a label beyond the ten of a named set") {
    folder.write("train-labels-idx1-ubyte", make_idx({12}, std::vector<uint8_t>(12, 10)));
    CHECK(contains(open_error(folder.spec("mnist"), Split::kTrain), "0 to 9; got 10 at sample 0"));
  }
  SUBCASE("no labels") {
    std::filesystem::remove(folder.path() / "train-labels-idx1-ubyte");
    CHECK(contains(open_error(spec, Split::kTrain), "train-labels-idx1-ubyte"));
  }
  SUBCASE("empty labels") {
    folder.write("train-labels-idx1-ubyte", make_idx({0}, {}));
    CHECK(contains(open_error(spec, Split::kTrain), "at least one label"));
  }
  SUBCASE("pictures and labels swapped") {
    folder.write("train-images-idx3-ubyte", make_idx({12}, std::vector<uint8_t>(12, 1)));
    CHECK(contains(open_error(spec, Split::kTrain), "{count, height, width}"));
  }
  SUBCASE("another size in test") {
    write_idx_set(folder, 12, 6, 6, 5);
    folder.write("t10k-images-idx3-ubyte", make_idx({6, 5, 5}, std::vector<uint8_t>(150, 1)));
    const DatasetPtr train = open_dataset(spec, Split::kTrain), test = open_dataset(spec, Split::kTest);
    CHECK(
        contains(error_of(ErrorKind::kData, [&] { check_same_kind(*train, *test); }), "6 x 5 x 1 and 5 x 5 x 1"));
  }
  SUBCASE("a missing split") {
    std::filesystem::remove(folder.path() / "t10k-images-idx3-ubyte");
    CHECK(contains(open_error(spec, Split::kTest), "the split 'test' is required; got only train"));
  }
  SUBCASE("val, where only test exists") {
    CHECK(contains(open_error(spec, Split::kVal), "the split 'val' is required; got only train and test"));
  }
  SUBCASE("no folder") {
    CHECK(contains(open_error("idx:" + (folder.path() / "none").string(), Split::kTrain), "nothing of that name"));
  }
}

TEST_CASE("Fashion-MNIST is read as Debian lays it out") {
  DatasetPtr train, test;
  try {
    train = open_dataset("fashion-mnist", Split::kTrain);
    test = open_dataset("fashion-mnist", Split::kTest);
  } catch (const Error& e) {
    MESSAGE("SKIPPED: Fashion-MNIST is not on this machine: " << e.what());
    return;
  }
  CHECK(train->size() == 60000);
  CHECK(test->size() == 10000);
  CHECK(train->classes()[9] == "Ankle boot");
  CHECK(train->label(0) == 9);
  check_same_kind(*train, *test);
  const DatasetReport report = inspect(*train, 2);
  for (const int64_t n : report.per_class) CHECK(n == 6000);
  CHECK(report.stats.mean[0] == doctest::Approx(0.2860).epsilon(1e-3));
  CHECK(report.stats.std[0] == doctest::Approx(0.3530).epsilon(1e-3));
  CHECK(report.damaged.empty());
}

TEST_CASE("a set that is not there is looked for and named") {
  const TempFolder folder;
  const DatasetOptions options{.data_dir = folder.path()};
  // "mnist" is in no Debian package, so nothing is found unless the machine has its own copy.
  const auto listed = list_datasets(options);
  const bool has_mnist = std::any_of(listed.begin(), listed.end(),
                                     [](const DatasetEntry& e) { return e.name == "mnist" && e.available; });
  if (has_mnist) {
    MESSAGE("SKIPPED: this machine has a copy of MNIST");
  } else {
    const std::string message = open_error("mnist", Split::kTrain, options);
    CHECK(contains(message, (folder.path() / "mnist").string()));
    CHECK(contains(message, "/usr/share/datasets/mnist"));
    CHECK(contains(message, "shapes"));
  }
  const TempFolder empty;
  CHECK(contains(open_error("fashion-mnist:" + empty.path().string(), Split::kTrain), "train-images-idx3-ubyte"));
}

TEST_CASE("a named set is found in the data folder") {
  const TempFolder folder;
  const TempFolder source;
  write_idx_set(source, 20, 10, 28, 28, 10);
  std::filesystem::copy(source.path(), folder.path() / "mnist");
  const DatasetOptions options{.data_dir = folder.path()};
  const DatasetPtr set = open_dataset("mnist", Split::kTrain, options);
  CHECK(set->size() == 20);
  CHECK(set->name() == "mnist");
  for (const DatasetEntry& entry : list_datasets(options)) {
    if (entry.name == "mnist") CHECK(entry.where == (folder.path() / "mnist").string());
  }
}

TEST_CASE("unknown names get the nearest one") {
  const auto message = [](const std::string& spec) {
    return error_of(ErrorKind::kUsage, [&] { open_dataset(spec, Split::kTrain); });
  };
  CHECK(contains(message("fashon-mnist"), "Try: 'fashion-mnist'"));
  CHECK(contains(message("shaps"), "Try: 'shapes'"));
  CHECK(contains(message("imagenet"),
                 "fashion-mnist, mnist, shapes, folder:PATH, hippocampus:PATH, idx:PATH; got 'imagenet'"));
  CHECK(contains(message("folder"), "folder:PATH"));
  CHECK(contains(message("folder:"), "folder:PATH"));
  CHECK(contains(message("shapes:/tmp"), "takes no path"));
  const TempFolder folder;
  CHECK(contains(message(folder.path().string()), "Try: folder:" + folder.path().string()));
  CHECK(parse_split("val") == Split::kVal);
  CHECK(contains(error_of(ErrorKind::kUsage, [] { parse_split("tets"); }), "Try: test"));
}

TEST_CASE("a picture folder is read in order, with a seeded val split") {
  const TempFolder folder;
  write_class(folder, "dogs", 10);
  write_class(folder, "cats", 20, 100);
  folder.write("cats/.hidden.png", "not a picture");
  folder.write("cats/notes.txt", "not a picture");
  folder.write(".git/x.png", "not a picture");
  folder.write("cats/A.JPG", make_jpeg(smooth_picture(9, 9, 3)));
  const std::string spec = folder.spec("folder");
  const DatasetPtr all = open_dataset(spec, Split::kTrain, {.val_fraction = 0.0});
  CHECK(all->classes() == std::vector<std::string>{"cats", "dogs"});
  CHECK(all->size() == 31);
  CHECK(!all->geometry().fixed());
  CHECK(contains(all->sample_name(20), "cats/A.JPG"));
  CHECK(contains(all->sample_name(30), "dogs/09.png"));
  CHECK(all->get(0).image == formula_picture(8, 10, 1, 100));
  CHECK(all->get(22).image == formula_picture(9, 10, 3, 1));
  CHECK(all->get(22).label == 1);

  const auto names = [](const DatasetPtr& set) {
    std::set<std::string> out;
    for (int64_t i = 0; i < set->size(); ++i) out.insert(set->sample_name(i));
    return out;
  };
  const DatasetPtr train = open_dataset(spec, Split::kTrain), val = open_eval_dataset(spec);
  CHECK(val->split() == Split::kVal);
  CHECK(val->size() == 3);  // 2 of 21 and 1 of 10
  CHECK(train->size() == 28);
  std::set<std::string> both = names(train);
  const std::set<std::string> val_names = names(val);
  both.insert(val_names.begin(), val_names.end());
  CHECK(both == names(all));
  CHECK(names(open_dataset(spec, Split::kVal)) == val_names);
  CHECK(names(open_dataset(spec, Split::kVal, {.seed = 1})) != val_names);
  CHECK(open_dataset(spec, Split::kVal, {.val_fraction = 0.5})->size() == 16);
  for (const double bad : {-0.1, 1.0, std::nan("")}) {
    error_of(ErrorKind::kUsage, [&] { open_dataset(spec, Split::kVal, {.val_fraction = bad}); });
  }
}

TEST_CASE("a picture folder with splits") {
  const TempFolder folder;
  const std::string spec = folder.spec("folder");
  for (const char* split : {"train", "valid", "test"}) {
    write_class(folder, std::string(split) + "/a", 2);
    write_class(folder, std::string(split) + "/b", 3);
  }
  CHECK(open_dataset(spec, Split::kTrain)->size() == 5);
  CHECK(open_dataset(spec, Split::kTest)->size() == 5);
  CHECK(open_eval_dataset(spec)->split() == Split::kVal);
  check_same_kind(*open_dataset(spec, Split::kTrain), *open_dataset(spec, Split::kVal));
  error_of(ErrorKind::kUsage, [&] { open_dataset(spec, Split::kVal, {.val_fraction = 0.5}); });
  SUBCASE("another class in val") {
    write_class(folder, "valid/c", 1);
    CHECK(contains(open_error(spec, Split::kVal), "the 2 classes of 'train'; got 3 classes; 'c' is in one"));
  }
  SUBCASE("a class missing in test") {
    std::filesystem::remove_all(folder.path() / "test/a");
    CHECK(contains(open_error(spec, Split::kTest), "got 1 classes; 'a' is in one of them only"));
  }
  SUBCASE("an empty class in val is allowed, in train not") {
    std::filesystem::remove_all(folder.path() / "valid/a");
    std::filesystem::create_directories(folder.path() / "valid/a");
    CHECK(open_dataset(spec, Split::kVal)->size() == 3);
    std::filesystem::create_directories(folder.path() / "train/c");
    CHECK(contains(open_error(spec, Split::kTrain), "train/c] every class of the training split needs a picture"));
  }
  SUBCASE("no train") {
    std::filesystem::remove_all(folder.path() / "train");
    CHECK(contains(open_error(spec, Split::kTrain), "needs one named 'train'; got only 'valid'"));
  }
  SUBCASE("a missing split") {
    std::filesystem::remove_all(folder.path() / "test");
    CHECK(contains(open_error(spec, Split::kTest), "the split 'test' is required; got only train and val"));
  }
}

TEST_CASE("an unusable picture folder gives one sentence") {
  const TempFolder folder;
  const std::string spec = folder.spec("folder");
  CHECK(contains(open_error(spec, Split::kTrain), "one sub-folder per class; got none"));
  CHECK(contains(open_error(spec + "/none", Split::kTrain), "nothing of that name"));
  write_class(folder, "only", 2);
  CHECK(contains(open_error(spec, Split::kTrain), "at least two classes are required; got one, 'only'"));
  CHECK(contains(open_error("folder:" + folder.write("file", "x").string(), Split::kTrain), "got a file"));
}

TEST_CASE("inspect counts, measures and lists what is damaged, for any number of threads") {
  const TempFolder folder;
  write_class(folder, "a", 4);
  write_class(folder, "b", 5, 50);
  folder.write("b/00.png", "no picture");
  const std::string png = encode_png(Image(4, 4, 1));
  folder.write("a/zz.png", png.substr(0, png.size() - 20));
  const DatasetPtr set = open_dataset(folder.spec("folder"), Split::kTrain, {.val_fraction = 0.0});
  const DatasetReport one = inspect(*set, 1);
  CHECK(one.samples == 10);
  CHECK(one.per_class == std::vector<int64_t>{5, 5});
  REQUIRE(one.damaged.size() == 2);
  CHECK(contains(one.damaged[0].name, "a/zz.png"));
  CHECK(one.damaged[1].index == 5);
  CHECK(contains(one.damaged[1].message, "a PNG or JPEG picture is required"));
  CHECK(one.smallest == Geometry{8, 10, 1});
  CHECK(one.largest == Geometry{12, 10, 3});
  CHECK(one.stats.mean.size() == 3);
  CHECK(one.stats.samples == 8);
  for (const int threads : {2, 3, 7}) {
    const DatasetReport many = inspect(*set, threads);
    CHECK(many.stats.mean == one.stats.mean);
    CHECK(many.stats.std == one.stats.std);
    CHECK(many.smallest == one.smallest);
    CHECK(many.damaged.size() == 2);
    CHECK(many.damaged[1].name == one.damaged[1].name);
  }
}

TEST_CASE("mean and deviation are exact") {
  ChannelSums sums;
  Image image(1, 4, 1);
  image.pixels = {0, 51, 102, 255};
  sums.add(image);
  const ChannelStats stats = sums.finish();
  CHECK(stats.mean[0] == doctest::Approx(0.4));
  CHECK(stats.std[0] == doctest::Approx(std::sqrt((0 + 0.04 + 0.16 + 1) / 4 - 0.16)));
  ChannelSums flat;
  flat.add(Image(3, 3, 3, 7));
  CHECK(flat.finish().std == std::vector<float>{1, 1, 1});
}

TEST_CASE("for_each_index passes on the first exception and covers every index") {
  std::vector<int> seen(1000);
  for_each_index(1000, 3, [&](int64_t i, int) { ++seen[static_cast<size_t>(i)]; });
  CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
  CHECK_THROWS_WITH(for_each_index(100, 3,
                                   [](int64_t i, int) {
                                     if (i == 40) throw std::runtime_error("forty");
                                   }),
                    "forty");
  for_each_index(0, 3, [](int64_t, int) { FAIL("no index"); });
}

TEST_CASE("shapes are balanced, repeatable and differ by seed, split and index") {
  const DatasetPtr set = open_dataset("shapes", Split::kTrain, {.seed = 3});
  CHECK(set->size() == 20000);
  CHECK(set->classes() == shape_names());
  CHECK(set->geometry() == Geometry{32, 32, 3});
  const DatasetPtr again = open_dataset("shapes", Split::kTrain, {.seed = 3});
  for (const int64_t i : {0, 1, 777, 19999}) CHECK(set->get(i).image == again->get(i).image);
  CHECK(set->get(0).image != set->get(10).image);
  CHECK(set->get(0).label == set->get(10).label);
  CHECK(set->get(0).image != open_dataset("shapes", Split::kTrain, {.seed = 4})->get(0).image);
  CHECK(set->get(0).image != open_dataset("shapes", Split::kVal, {.seed = 3})->get(0).image);
  CHECK(open_dataset("shapes", Split::kTest, {.image_size = 48})->get(5).image.height == 48);
  std::vector<int> counts(10);
  for (int64_t i = 0; i < set->size(); ++i) ++counts[static_cast<size_t>(set->label(i))];
  for (const int n : counts) CHECK(n == 2000);
  error_of(ErrorKind::kUsage, [] { open_dataset("shapes", Split::kTrain, {.image_size = 8}); });
}

}  // namespace
}  // namespace aspis::data
