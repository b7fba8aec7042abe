// Batches are numbered. A worker takes the next number, fills the slot
// `number % prefetch`, and marks it ready; the consumer takes the slots in order.
// Samples are decided by position in the epoch's order, so who fills a slot does
// not matter. Damage is counted by the consumer, batch by batch, so that the
// limit is passed at the same batch for every number of threads.

#include "aspis/data/loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>

#include "aspis/base/log.h"
#include "aspis/base/rng.h"

namespace aspis::data {
namespace {

// Prepared pictures by index, up to a budget; also the samples known as damaged,
// which need not be decoded again to fail again.
class PreparedCache {
 public:
  PreparedCache(DatasetPtr dataset, const Transform& transform, int64_t budget)
      : dataset_(std::move(dataset)), transform_(transform), budget_(budget) {
    // A data set in memory that needs no preparing is its own cache.
    if (!(dataset_->in_memory() && transform.prepares_nothing(*dataset_))) {
      slots_ = std::vector<std::atomic<const Image*>>(static_cast<size_t>(dataset_->size()));
    }
  }
  ~PreparedCache() {
    for (auto& slot : slots_) delete slot.load();
  }
  PreparedCache(const PreparedCache&) = delete;
  PreparedCache& operator=(const PreparedCache&) = delete;

  // Calls use(prepared picture); throws what the data set throws.
  template <typename Use>
  void with(int64_t index, Use&& use) {
    if (slots_.empty()) return use(transform_.prepare(dataset_->get(index).image));
    auto& slot = slots_[static_cast<size_t>(index)];
    if (const Image* kept = slot.load(std::memory_order_acquire)) return use(*kept);
    throw_if_known_damaged(index);
    auto image = std::make_unique<const Image>(prepare(index));
    use(*image);
    const auto bytes = static_cast<int64_t>(image->pixels.size() + sizeof(Image) + kHeapOverhead);
    if (used_.fetch_add(bytes) + bytes > budget_) {
      used_.fetch_sub(bytes);
      return;
    }
    const Image* expected = nullptr;
    if (slot.compare_exchange_strong(expected, image.get(), std::memory_order_acq_rel)) {
      std::ignore = image.release();
    } else {
      used_.fetch_sub(bytes);
    }
  }

 private:
  static constexpr size_t kHeapOverhead = 32;

  Image prepare(int64_t index) {
    try {
      return transform_.prepare(dataset_->get(index).image);
    } catch (const Error& e) {
      if (e.kind() == ErrorKind::kData) {
        const std::lock_guard lock(mutex_);
        damaged_.emplace(index, e);
      }
      throw;
    }
  }

  void throw_if_known_damaged(int64_t index) {
    const std::lock_guard lock(mutex_);
    const auto it = damaged_.find(index);
    if (it != damaged_.end()) throw Error(it->second);
  }

  DatasetPtr dataset_;
  const Transform& transform_;
  std::vector<std::atomic<const Image*>> slots_;
  std::atomic<int64_t> used_{0};
  int64_t budget_;
  std::mutex mutex_;
  std::map<int64_t, Error> damaged_;
};

struct Slot {
  Batch batch;
  std::vector<DamagedSample> damaged;
  std::exception_ptr error;
  bool ready = false;
};

void check_options(const LoaderOptions& o, int64_t size) {
  const auto check = [](bool ok, const char* where, std::string required, std::string got) {
    require(ok, [&] { return Error::Parts{.where = where, .required = required, .got = got}; });
  };
  constexpr int64_t kMostBatch = 1 << 20;
  constexpr int kMostThreads = 256, kMostPrefetch = 1024;
  check(o.batch_size >= 1 && o.batch_size <= kMostBatch, "batch size",
        fmt::format("it must lie in 1 to {}", kMostBatch), fmt::format("{}", o.batch_size));
  check(o.threads >= 1 && o.threads <= kMostThreads, "loader threads",
        fmt::format("their number must lie in 1 to {}", kMostThreads), fmt::format("{}", o.threads));
  check(o.prefetch >= 1 && o.prefetch <= kMostPrefetch, "prefetch",
        fmt::format("it must lie in 1 to {} batches", kMostPrefetch), fmt::format("{}", o.prefetch));
  check(o.bad_limit >= 0 && o.bad_limit <= 1, "bad sample limit", "it must lie in 0 to 1",
        fmt::format("{}", o.bad_limit));
  check(!o.drop_last || o.batch_size <= size, "batch size",
        fmt::format("with the last batch dropped it must be at most the {} samples of the data set", size),
        fmt::format("{}", o.batch_size));
}

}  // namespace

OnBadSample parse_on_bad_sample(std::string_view word) {
  if (word == "error") return OnBadSample::kError;
  if (word == "skip") return OnBadSample::kSkip;
  throw Error(
      ErrorKind::kUsage,
      {.where = "--on-bad-sample", .required = "it must be error or skip", .got = fmt::format("'{}'", word)});
}

std::vector<int64_t> epoch_order(int64_t n, uint64_t seed, int64_t epoch) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  Rng rng(seed, "loader.order", static_cast<uint64_t>(epoch));
  for (int64_t i = n - 1; i > 0; --i) std::swap(order[i], order[rng.below(static_cast<uint64_t>(i) + 1)]);
  return order;
}

struct Loader::State {
  State(DatasetPtr data, Transform t, LoaderOptions o)
      : dataset(std::move(data)),
        transform(std::move(t)),
        options(o),
        cache(dataset, transform, o.cache_bytes),
        slots(static_cast<size_t>(o.prefetch)) {}

  int64_t batches() const {
    const int64_t n = dataset->size(), b = options.batch_size;
    return options.drop_last ? n / b : (n + b - 1) / b;
  }
  int64_t allowed_damage() const {
    constexpr double kRounding = 1e-9;
    const double share = options.bad_limit * static_cast<double>(dataset->size());
    return options.bad_limit > 0 ? std::max<int64_t>(1, static_cast<int64_t>(share + kRounding)) : 0;
  }
  [[noreturn]] void throw_too_many(int64_t count) const {
    throw Error(ErrorKind::kData, {.where = dataset->name(),
                                   .required = fmt::format("at most {} of {} samples may be damaged",
                                                           allowed_damage(), dataset->size()),
                                   .got = fmt::format("{} so far", count),
                                   .hint = "look at 'aspis data inspect'"});
  }

  void work();
  void make_batch(int64_t number, Slot& slot);
  bool add_sample(int64_t position, Slot& slot);
  void account(const std::vector<DamagedSample>& found);

  const DatasetPtr dataset;
  const Transform transform;
  const LoaderOptions options;
  PreparedCache cache;

  // Changed only while no worker is active.
  std::vector<int64_t> order;
  int64_t epoch = 0;

  std::atomic<bool> cancel{false};
  mutable std::mutex mutex;
  std::condition_variable work_available, work_done;
  std::vector<Slot> slots;
  int64_t total = 0;      // batches of the epoch; 0 while none is under way
  int64_t next_make = 0;  // first batch that no worker has taken
  int64_t next_take = 0;  // first batch that the consumer has not taken
  int active = 0;
  bool stop = false;

  // The consumer's own.
  std::map<int64_t, DamagedSample> damaged;
  std::exception_ptr failure;

  std::vector<std::thread> workers;
};

void Loader::State::work() {
  std::unique_lock lock(mutex);
  while (true) {
    work_available.wait(lock,
                        [&] { return stop || (next_make < total && next_make < next_take + options.prefetch); });
    if (stop) return;
    const int64_t number = next_make++;
    Slot& slot = slots[static_cast<size_t>(number % options.prefetch)];
    ++active;
    lock.unlock();
    std::exception_ptr error;
    try {
      make_batch(number, slot);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    --active;
    slot.error = error;
    slot.ready = true;
    work_done.notify_all();
  }
}

void Loader::State::make_batch(int64_t number, Slot& slot) {
  const int64_t begin = number * options.batch_size;
  const int64_t count = std::min(options.batch_size, dataset->size() - begin);
  const TransformOptions& t = transform.options();
  Batch& batch = slot.batch;
  slot.damaged.clear();
  batch.height = t.height;
  batch.width = t.width;
  batch.channels = t.channels;
  batch.epoch = epoch;
  batch.index = number;
  batch.size = 0;
  batch.images.resize(static_cast<size_t>(count * transform.values()));
  batch.labels.resize(static_cast<size_t>(count));
  batch.indices.resize(static_cast<size_t>(count));
  for (int64_t i = 0; i < count && !cancel.load(std::memory_order_relaxed); ++i) {
    const int64_t n = dataset->size();
    int64_t position = begin + i;
    int64_t failures = 0;
    while (!add_sample(position, slot)) {
      if (!options.training) break;
      if (++failures > allowed_damage()) throw_too_many(failures);
      if (failures >= n) break;
      position = (position + 1) % n;
    }
  }
  batch.images.resize(static_cast<size_t>(batch.size * transform.values()));
  batch.labels.resize(static_cast<size_t>(batch.size));
  batch.indices.resize(static_cast<size_t>(batch.size));
}

// Adds the sample at a position of the order; false if it is damaged and skipped.
bool Loader::State::add_sample(int64_t position, Slot& slot) {
  Batch& batch = slot.batch;
  const int64_t index = options.training ? order[static_cast<size_t>(position)] : position;
  float* out = batch.images.data() + batch.size * transform.values();
  try {
    cache.with(index, [&](const Image& prepared) {
      if (options.training) {
        transform.write_augmented(prepared, epoch, index, out);
      } else {
        transform.write(prepared, out);
      }
    });
  } catch (const Error& e) {
    if (options.on_bad_sample == OnBadSample::kError || e.kind() != ErrorKind::kData) throw;
    slot.damaged.push_back({index, dataset->sample_name(index), e.what()});
    return false;
  }
  batch.labels[static_cast<size_t>(batch.size)] = dataset->label(index);
  batch.indices[static_cast<size_t>(batch.size)] = index;
  ++batch.size;
  return true;
}

void Loader::State::account(const std::vector<DamagedSample>& found) {
  for (const DamagedSample& sample : found) {
    if (damaged.emplace(sample.index, sample).second) {
      log_warning("data", fmt::format("skipped a damaged sample: {}", sample.message));
    }
  }
  const auto count = static_cast<int64_t>(damaged.size());
  if (count > allowed_damage()) throw_too_many(count);
}

Loader::Loader(DatasetPtr dataset, Transform transform, LoaderOptions options) {
  check_options(options, dataset->size());
  state_ = std::make_unique<State>(std::move(dataset), std::move(transform), options);
  try {
    for (int i = 0; i < options.threads; ++i) state_->workers.emplace_back([s = state_.get()] { s->work(); });
  } catch (const std::system_error&) {
    // With at least one thread the loader works; the rest only makes it faster.
    if (state_->workers.empty()) {
      throw Error(ErrorKind::kDevice, {.where = "loader", .required = "a thread could not be started"});
    }
  }
}

Loader::~Loader() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
    state_->cancel = true;
  }
  state_->work_available.notify_all();
  for (std::thread& t : state_->workers) t.join();
}

int64_t Loader::batches_per_epoch() const { return state_->batches(); }

void Loader::start_epoch(int64_t epoch, int64_t first_batch) {
  State& s = *state_;
  require(epoch >= 0 && first_batch >= 0 && first_batch <= s.batches(), [&] {
    return Error::Parts{.where = "loader",
                        .required = fmt::format("an epoch of at least 0 and a batch in 0 to {}", s.batches()),
                        .got = fmt::format("epoch {}, batch {}", epoch, first_batch)};
  });
  std::unique_lock lock(s.mutex);
  s.total = 0;
  s.cancel = true;
  s.work_done.wait(lock, [&] { return s.active == 0; });
  s.cancel = false;
  for (Slot& slot : s.slots) slot.ready = false;
  if (s.options.training) s.order = epoch_order(s.dataset->size(), s.options.seed, epoch);
  s.epoch = epoch;
  s.failure = nullptr;
  s.next_make = s.next_take = first_batch;
  s.total = s.batches();
  s.work_available.notify_all();
}

bool Loader::next(Batch& batch) {
  State& s = *state_;
  if (s.failure) std::rethrow_exception(s.failure);
  try {
    while (true) {
      std::unique_lock lock(s.mutex);
      if (s.next_take >= s.total) return false;
      Slot& slot = s.slots[static_cast<size_t>(s.next_take % s.options.prefetch)];
      s.work_done.wait(lock, [&] { return slot.ready; });
      if (slot.error) std::rethrow_exception(slot.error);
      std::swap(batch, slot.batch);
      const std::vector<DamagedSample> found = std::move(slot.damaged);
      slot.damaged.clear();
      slot.ready = false;
      ++s.next_take;
      s.work_available.notify_all();
      lock.unlock();
      s.account(found);
      if (batch.size > 0) return true;  // an evaluation batch of damaged samples only is left out
    }
  } catch (...) {
    s.failure = std::current_exception();
    throw;
  }
}

LoaderPosition Loader::position() const {
  const std::lock_guard lock(state_->mutex);
  if (state_->total > 0 && state_->next_take >= state_->total) return {state_->epoch + 1, 0};
  return {state_->epoch, state_->next_take};
}

const Dataset& Loader::dataset() const { return *state_->dataset; }
const Transform& Loader::transform() const { return state_->transform; }

std::vector<DamagedSample> Loader::damaged() const {
  std::vector<DamagedSample> list;
  for (const auto& [index, sample] : state_->damaged) list.push_back(sample);
  return list;
}

}  // namespace aspis::data
