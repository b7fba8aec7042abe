#include "aspis/data/loader.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numeric>
#include <thread>

#include "aspis/base/log.h"
#include "aspis/data/test_support.h"

namespace aspis::data {
namespace {

// Gray pictures by formula; some indices are damaged, one may fail otherwise.
class FakeDataset final : public Dataset {
 public:
  FakeDataset(int64_t size, int height, int width, std::vector<int64_t> bad = {}, int64_t broken = -1)
      : Dataset("fake", Split::kTrain, {"a", "b"}, {height, width, 1}, "formula"),
        size_(size),
        bad_(std::move(bad)),
        broken_(broken) {}
  int64_t size() const override { return size_; }
  int32_t label(int64_t index) const override { return static_cast<int32_t>(index % 2); }
  Sample get(int64_t index) const override {
    check_index(index);
    ++reads;
    if (index == broken_) throw std::runtime_error("the disk is gone");
    if (std::count(bad_.begin(), bad_.end(), index)) {
      throw Error(ErrorKind::kData, {.where = sample_name(index), .required = "a whole picture"});
    }
    return {formula_picture(geometry_.height, geometry_.width, 1, static_cast<uint32_t>(index)), label(index)};
  }
  mutable std::atomic<int64_t> reads{0};

 private:
  int64_t size_;
  std::vector<int64_t> bad_;
  int64_t broken_;
};

std::vector<Batch> epoch(Loader& loader, int64_t number, int64_t first = 0) {
  std::vector<Batch> batches;
  loader.start_epoch(number, first);
  Batch batch;
  while (loader.next(batch)) batches.push_back(batch);
  return batches;
}

bool same(const Batch& a, const Batch& b) {
  return a.images.size() == b.images.size() &&
         std::memcmp(a.images.data(), b.images.data(), a.images.size() * sizeof(float)) == 0 &&
         a.labels == b.labels && a.indices == b.indices && a.size == b.size && a.epoch == b.epoch &&
         a.index == b.index;
}

bool same(const std::vector<Batch>& a, const std::vector<Batch>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Batch& x, const Batch& y) { return same(x, y); });
}

std::vector<int64_t> all_indices(const std::vector<Batch>& batches) {
  std::vector<int64_t> out;
  for (const Batch& b : batches) out.insert(out.end(), b.indices.begin(), b.indices.end());
  return out;
}

TransformOptions augmented(uint64_t seed = 5) {
  TransformOptions o;
  o.crop_padding = 2;
  o.flip = true;
  o.erase_prob = 0.25;
  o.seed = seed;
  return o;
}

TEST_CASE("write normalises each channel") {
  const FakeDataset set(4, 3, 2);
  TransformOptions options;
  options.channels = 3;
  options.mean = {0.1f, 0.2f, 0.3f};
  options.std = {0.5f, 1.0f, 2.0f};
  const Transform transform(options, set);
  const Image prepared = transform.prepare(set.get(1).image);
  REQUIRE(prepared.channels == 3);
  std::vector<float> out(static_cast<size_t>(transform.values()));
  transform.write(prepared, out.data());
  for (size_t i = 0; i < out.size(); ++i) {
    const float want =
        (static_cast<float>(prepared.pixels[i]) / 255.0f - options.mean[i % 3]) / options.std[i % 3];
    CHECK(out[i] == doctest::Approx(want));
  }
}

TEST_CASE("augmentation shifts, mirrors and erases within its bounds") {
  const FakeDataset set(1, 6, 5);
  const Image image = set.get(0).image;
  TransformOptions options;
  options.crop_padding = 2;
  options.flip = true;
  const Transform transform(options, set);
  std::vector<int> seen(50);
  std::vector<float> out(30), want(30);
  for (int64_t e = 0; e < 600; ++e) {
    transform.write_augmented(image, e, 0, out.data());
    int matches = 0;
    for (int k = 0; k < 50; ++k) {
      const int dy = k / 10 - 2, dx = k / 2 % 5 - 2;
      for (int y = 0; y < 6; ++y) {
        for (int x = 0; x < 5; ++x) {
          const int from_y = y + dy, from_x = (k % 2 ? 4 - x : x) + dx;
          const bool inside = from_y >= 0 && from_y < 6 && from_x >= 0 && from_x < 5;
          want[static_cast<size_t>(y) * 5 + x] =
              inside ? static_cast<float>(image.row(from_y)[from_x]) / 255.0f : 0;
        }
      }
      if (out == want) ++matches, ++seen[static_cast<size_t>(k)];
    }
    REQUIRE(matches == 1);
  }
  // 600 draws of 50 cases: 12 each on average, and with this seed none is missing.
  CHECK(*std::min_element(seen.begin(), seen.end()) >= 1);

  options = {};
  options.erase_prob = 1;
  options.mean = {-1};  // so that no sample is zero
  const Transform erasing(options, set);
  int erased = 0;
  for (int64_t e = 0; e < 100; ++e) {
    erasing.write_augmented(image, e, 0, out.data());
    const auto zeros = std::count(out.begin(), out.end(), 0.0f);
    erased += zeros > 0;
    CHECK(zeros <= 15);
  }
  CHECK(erased >= 90);
}

TEST_CASE("augmentation depends on seed, epoch and index only") {
  const FakeDataset set(9, 16, 16);
  const Image image = set.get(0).image;
  std::vector<float> a(256), b(256);
  const auto differs = [&](uint64_t seed, int64_t e, int64_t i) {
    Transform(augmented(5), set).write_augmented(image, 3, 4, a.data());
    Transform(augmented(seed), set).write_augmented(image, e, i, b.data());
    return a != b;
  };
  CHECK(!differs(5, 3, 4));
  CHECK(differs(6, 3, 4));
  CHECK(differs(5, 4, 4));
  CHECK(differs(5, 3, 5));
}

TEST_CASE("pictures of any size and colour are prepared alike") {
  const TempFolder folder;
  folder.write("a/1.png", encode_png(formula_picture(40, 20, 1, 1)));
  folder.write("b/1.png", encode_png(formula_picture(20, 41, 3, 1)));
  const DatasetPtr set = open_dataset(folder.spec("folder"), Split::kTrain, {.val_fraction = 0.0});
  TransformOptions options;
  CHECK(contains(error_of(ErrorKind::kUsage, [&] { Transform(options, *set); }), "image size"));
  options.height = options.width = 16;
  for (const Fit fit : {Fit::kCover, Fit::kStretch}) {
    options.fit = fit;
    const Transform transform(options, *set);
    CHECK(transform.values() == 16 * 16 * 3);
    const Image image = transform.prepare(set->get(1).image);
    CHECK(image.height == 16);
    CHECK(image.width == 16);
    CHECK(transform.prepare(set->get(0).image).channels == 3);
    if (fit == Fit::kStretch) CHECK(image == resize(set->get(1).image, 16, 16));
  }
}

TEST_CASE("transform options out of range are refused") {
  const FakeDataset set(4, 8, 8);
  const auto refused = [&](const std::function<void(TransformOptions&)>& change) {
    TransformOptions options;
    change(options);
    error_of(ErrorKind::kUsage, [&] { Transform(options, set); });
  };
  refused([](auto& o) { o.height = -1; });
  refused([](auto& o) { o.channels = 2; });
  refused([](auto& o) { o.mean = {0, 0}; });
  refused([](auto& o) { o.std = {0}; });
  refused([](auto& o) { o.std = {NAN}; });
  refused([](auto& o) { o.crop_padding = 9; });
  refused([](auto& o) { o.erase_prob = NAN; });
}

TEST_CASE("channel statistics are those of the prepared pictures, for any number of threads") {
  const FakeDataset set(50, 9, 9, {7});
  const Transform transform({}, set);
  error_of(ErrorKind::kData, [&] { channel_stats(set, transform); });
  const ChannelStats one = channel_stats(set, transform, 1, true);
  CHECK(one.samples == 49);
  for (const int threads : {2, 3, 7}) {
    CHECK(channel_stats(set, transform, threads, true).mean == one.mean);
    CHECK(channel_stats(set, transform, threads, true).std == one.std);
  }
  CHECK(channel_stats(set, transform, 1, true, 10).samples == 10);
  // Normalised with them, the set has mean 0 and deviation 1.
  const FakeDataset whole(50, 9, 9);
  const ChannelStats stats = channel_stats(whole, transform);
  TransformOptions options;
  options.mean = stats.mean;
  options.std = stats.std;
  const Transform normalise(options, whole);
  std::vector<float> out(81);
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < 50; ++i) {
    normalise.write(whole.get(i).image, out.data());
    for (const float v : out) sum += v, squares += static_cast<double>(v) * v;
  }
  CHECK(std::fabs(sum / 4050) < 1e-5);
  CHECK(squares / 4050 == doctest::Approx(1).epsilon(1e-5));
}

TEST_CASE("an epoch gives every sample once, in a new order each time") {
  const auto set = std::make_shared<FakeDataset>(53, 8, 8);
  Loader loader(set, Transform(augmented(), *set), {.batch_size = 10, .seed = 1});
  CHECK(loader.batches_per_epoch() == 6);
  const auto first = epoch(loader, 0), second = epoch(loader, 1);
  CHECK(first.size() == 6);
  CHECK(first[5].size == 3);
  CHECK(first[5].images.size() == 3 * 64);
  std::vector<int64_t> order = all_indices(first);
  CHECK(order == epoch_order(53, 1, 0));
  CHECK(order != all_indices(second));
  CHECK(order != epoch_order(53, 2, 0));
  std::sort(order.begin(), order.end());
  std::vector<int64_t> want(53);
  std::iota(want.begin(), want.end(), 0);
  CHECK(order == want);
  for (const Batch& b : first) {
    for (size_t i = 0; i < b.labels.size(); ++i) CHECK(b.labels[i] == b.indices[i] % 2);
  }
  CHECK(same(epoch(loader, 0), first));
  // The second time everything came from memory.
  CHECK(set->reads == 53);
}

TEST_CASE("drop_last leaves out the short batch") {
  const auto set = std::make_shared<FakeDataset>(53, 8, 8);
  Loader loader(set, Transform({}, *set), {.batch_size = 10, .drop_last = true});
  CHECK(epoch(loader, 0).size() == 5);
  CHECK(loader.position() == LoaderPosition{1, 0});
  error_of(ErrorKind::kUsage, [&] { Loader(set, Transform({}, *set), {.batch_size = 54, .drop_last = true}); });
}

TEST_CASE("evaluation keeps the order of the set and does not augment") {
  const auto set = std::make_shared<FakeDataset>(7, 8, 8);
  Loader loader(set, Transform(augmented(), *set), {.batch_size = 4, .training = false});
  const auto batches = epoch(loader, 0);
  CHECK(all_indices(batches) == std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6});
  const Image image = set->get(5).image;
  for (size_t i = 0; i < 64; ++i) {
    CHECK(batches[1].images[64 + i] == static_cast<float>(image.pixels[i]) / 255.0f);
  }
}

TEST_CASE("batches are the same bit for bit for 1, 2, 3 and 7 loader threads") {
  const auto set = std::make_shared<FakeDataset>(101, 12, 12, std::vector<int64_t>{17, 60});
  for (const bool training : {true, false}) {
    LoaderOptions options{.batch_size = 8, .prefetch = 3, .training = training, .seed = 9};
    options.on_bad_sample = OnBadSample::kSkip;
    options.bad_limit = 0.05;
    Loader reference(set, Transform(augmented(), *set), options);
    const auto want0 = epoch(reference, 0), want1 = epoch(reference, 1);
    for (const int threads : {2, 3, 7}) {
      for (const int64_t cache : {int64_t{0}, int64_t{4000}, int64_t{1} << 30}) {
        options.threads = threads;
        options.cache_bytes = cache;
        Loader loader(set, Transform(augmented(), *set), options);
        CHECK(same(epoch(loader, 0), want0));
        CHECK(same(epoch(loader, 1), want1));
        CHECK(loader.damaged().size() == 2);
      }
    }
  }
}

TEST_CASE("a restored position goes on exactly") {
  const auto set = std::make_shared<FakeDataset>(64, 8, 8);
  const LoaderOptions options{.batch_size = 8, .threads = 2, .seed = 4};
  Loader loader(set, Transform(augmented(), *set), options);
  const auto whole = epoch(loader, 2);
  loader.start_epoch(2);
  Batch batch;
  for (int i = 0; i < 5; ++i) REQUIRE(loader.next(batch));
  const LoaderPosition position = loader.position();
  CHECK(position == LoaderPosition{2, 5});
  Loader other(set, Transform(augmented(), *set), options);
  other.start_at(position);
  for (size_t i = 5; i < 8; ++i) {
    REQUIRE(other.next(batch));
    CHECK(same(batch, whole[i]));
  }
  CHECK(other.position() == LoaderPosition{3, 0});
  CHECK(!other.next(batch));
  CHECK(!other.next(batch));
  // The last batch of an epoch may also be where one stopped.
  other.start_epoch(2, 8);
  CHECK(!other.next(batch));
  error_of(ErrorKind::kUsage, [&] { other.start_epoch(2, 9); });
  error_of(ErrorKind::kUsage, [&] { other.start_epoch(-1); });
}

TEST_CASE("a damaged sample is an error at its batch, or skipped by the rule") {
  const auto set = std::make_shared<FakeDataset>(40, 8, 8, std::vector<int64_t>{13});
  const std::vector<int64_t> order = epoch_order(40, 3, 0);
  const auto place = std::find(order.begin(), order.end(), 13) - order.begin();
  LoaderOptions options{.batch_size = 4, .threads = 3, .seed = 3};
  SUBCASE("error") {
    Loader loader(set, Transform({}, *set), options);
    loader.start_epoch(0);
    Batch batch;
    for (int64_t b = 0; b < place / 4; ++b) CHECK(loader.next(batch));
    for (int again = 0; again < 2; ++again) {
      CHECK(contains(error_of(ErrorKind::kData, [&] { loader.next(batch); }), "fake/train[13]"));
    }
  }
  SUBCASE("skip in training: the next of the order takes the place") {
    options.on_bad_sample = OnBadSample::kSkip;
    std::mutex mutex;
    std::vector<std::string> lines;
    set_log_sink([&](LogLevel, std::string_view, std::string_view m) {
      const std::lock_guard lock(mutex);
      lines.emplace_back(m);
    });
    Loader loader(set, Transform({}, *set), options);
    std::vector<int64_t> want = order;
    want[static_cast<size_t>(place)] = order[static_cast<size_t>(place + 1) % 40];
    CHECK(all_indices(epoch(loader, 0)) == want);
    epoch(loader, 1);
    set_log_sink({});
    REQUIRE(lines.size() == 1);
    CHECK(contains(lines[0], "fake/train[13]"));
    REQUIRE(loader.damaged().size() == 1);
    CHECK(loader.damaged()[0].index == 13);
  }
  SUBCASE("skip in evaluation: it is left out") {
    options.on_bad_sample = OnBadSample::kSkip;
    options.training = false;
    options.batch_size = 1;
    Loader loader(set, Transform({}, *set), options);
    const auto batches = epoch(loader, 0);
    CHECK(batches.size() == 39);
    CHECK(batches[13].index == 14);
  }
}

TEST_CASE("seven damaged of a hundred: refused at 1 %, skipped at 10 %, at the same batch for any threads") {
  const auto set = std::make_shared<FakeDataset>(100, 8, 8, std::vector<int64_t>{3, 14, 15, 16, 50, 77, 99});
  std::vector<int> batches_before_error;
  for (const int threads : {1, 2, 3, 7}) {
    LoaderOptions options{.batch_size = 5, .threads = threads, .seed = 2};
    options.on_bad_sample = OnBadSample::kSkip;
    Loader strict(set, Transform({}, *set), options);
    strict.start_epoch(0);
    Batch batch;
    int count = 0;
    const std::string message = error_of(ErrorKind::kData, [&] {
      while (strict.next(batch)) ++count;
    });
    CHECK(contains(message, "at most 1 of 100 samples may be damaged; got 2 so far"));
    batches_before_error.push_back(count);
    options.bad_limit = 0.1;
    Loader lenient(set, Transform({}, *set), options);
    CHECK(all_indices(epoch(lenient, 0)).size() == 100);
    CHECK(lenient.damaged().size() == 7);
  }
  CHECK(std::count(batches_before_error.begin(), batches_before_error.end(), batches_before_error[0]) == 4);
}

TEST_CASE("a set of nothing but damage ends with an error") {
  std::vector<int64_t> all(20);
  std::iota(all.begin(), all.end(), 0);
  const auto set = std::make_shared<FakeDataset>(20, 8, 8, all);
  for (const bool training : {true, false}) {
    LoaderOptions options{.batch_size = 4, .training = training};
    options.on_bad_sample = OnBadSample::kSkip;
    Loader loader(set, Transform({}, *set), options);
    error_of(ErrorKind::kData, [&] { epoch(loader, 0); });
  }
}

TEST_CASE("any other exception of a loader thread reaches the consumer, and the loader can start again") {
  const auto set = std::make_shared<FakeDataset>(40, 8, 8, std::vector<int64_t>{}, 20);
  LoaderOptions options{.batch_size = 4, .threads = 2, .training = false};
  options.on_bad_sample = OnBadSample::kSkip;
  Loader loader(set, Transform({}, *set), options);
  loader.start_epoch(0);
  Batch batch;
  for (int i = 0; i < 5; ++i) REQUIRE(loader.next(batch));
  CHECK_THROWS_WITH(loader.next(batch), "the disk is gone");
  CHECK_THROWS_WITH(loader.next(batch), "the disk is gone");
  loader.start_epoch(0);
  CHECK(loader.next(batch));
}

TEST_CASE("a loader can be destroyed or restarted at any moment") {
  const auto set = std::make_shared<FakeDataset>(200, 16, 16);
  Batch batch;
  for (int i = 0; i < 60; ++i) {
    Loader loader(set, Transform(augmented(), *set),
                  {.batch_size = 7, .threads = 1 + i % 4, .prefetch = 1 + i % 3});
    if (i % 5 == 0) continue;
    loader.start_epoch(i);
    for (int k = 0; k < i % 7; ++k) loader.next(batch);
    if (i % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(50 * i));
    if (i % 2 == 0) {
      loader.start_epoch(i + 1, i % 4);
      REQUIRE(loader.next(batch));
      REQUIRE(batch.epoch == i + 1);
      REQUIRE(batch.index == i % 4);
    }
  }
}

TEST_CASE("next before the first epoch gives nothing") {
  const auto set = std::make_shared<FakeDataset>(4, 8, 8);
  Loader loader(set, Transform({}, *set), {});
  Batch batch;
  CHECK(!loader.next(batch));
  CHECK(loader.position() == LoaderPosition{0, 0});
}

TEST_CASE("loader options out of range are refused") {
  const auto set = std::make_shared<FakeDataset>(4, 8, 8);
  const auto refused = [&](const std::function<void(LoaderOptions&)>& change) {
    LoaderOptions options;
    change(options);
    error_of(ErrorKind::kUsage, [&] { Loader(set, Transform({}, *set), options); });
  };
  refused([](auto& o) { o.batch_size = 0; });
  refused([](auto& o) { o.threads = 0; });
  refused([](auto& o) { o.prefetch = 0; });
  refused([](auto& o) { o.bad_limit = NAN; });
  CHECK(parse_on_bad_sample("skip") == OnBadSample::kSkip);
  error_of(ErrorKind::kUsage, [] { parse_on_bad_sample("ignore"); });
}

}  // namespace
}  // namespace aspis::data
