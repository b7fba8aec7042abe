#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "aspis/data/transform.h"

namespace aspis::data {

enum class OnBadSample { kError, kSkip };

/// "error", "skip"; throws `Error(kUsage)` for another word.
OnBadSample parse_on_bad_sample(std::string_view word);

struct LoaderOptions {
  int64_t batch_size = 64;
  /// Threads that decode and augment; they use neither OpenMP nor the engine.
  int threads = 1;
  /// Batches that may lie ready.
  int prefetch = 4;
  /// True: a new order in each epoch, augmentation on. False: the order of the
  /// data set, no augmentation, for evaluation.
  bool training = true;
  /// Leave out the last batch of an epoch if it is not full.
  bool drop_last = false;
  /// Of the order. Augmentation has its own seed in TransformOptions.
  uint64_t seed = 0;

  OnBadSample on_bad_sample = OnBadSample::kError;
  /// Share of the data set that may be damaged under kSkip (one sample always may).
  double bad_limit = 0.01;
  /// Prepared pictures are kept in memory up to this many bytes.
  int64_t cache_bytes = int64_t{2} << 30;
};

/// One batch, row-major.
struct Batch {
  std::vector<float> images;     ///< {size, height, width, channels}
  std::vector<int32_t> labels;   ///< {size}
  std::vector<int64_t> indices;  ///< {size}, into the data set
  int64_t size = 0;
  int height = 0;
  int width = 0;
  int channels = 0;
  int64_t epoch = 0;
  int64_t index = 0;  ///< number of the batch in its epoch
};

/// The next batch to be given out. Saved in a checkpoint it makes resume exact.
struct LoaderPosition {
  int64_t epoch = 0;
  int64_t batch = 0;
  bool operator==(const LoaderPosition&) const = default;
};

/// Gives the batches of a data set, made ahead by its own threads. What a batch
/// holds depends on (data, transform, seed, epoch, batch number) only, never on
/// the number of threads or on when they run.
///
///     Loader loader(train, transform, options);
///     loader.start_epoch(0);
///     Batch batch;
///     while (loader.next(batch)) { ... }
///
/// Damaged samples (`Error(kData)` from the data set) under kSkip: in training
/// the next good sample of the same epoch's order takes the place, so batches stay
/// full; in evaluation the sample is left out and the batch is smaller. Each one is named
/// in the log once, and beyond the limit next() throws. An error of a loader
/// thread arrives at next() for the batch in which it happened, and stays: the
/// loader gives nothing more until the next start_epoch().
///
/// One thread at a time may use a Loader. It can be destroyed at any moment.
class Loader {
 public:
  /// Throws `Error(kUsage)` for values out of range.
  Loader(DatasetPtr dataset, Transform transform, LoaderOptions options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  int64_t batches_per_epoch() const;
  /// Begins an epoch, at its batch `first_batch`; what is under way is dropped.
  void start_epoch(int64_t epoch, int64_t first_batch = 0);
  void start_at(LoaderPosition position) { start_epoch(position.epoch, position.batch); }
  /// The next batch of the epoch, or false at its end. Reuses the memory of `batch`.
  bool next(Batch& batch);
  /// Where the next batch comes from; after the last one the start of the next epoch.
  LoaderPosition position() const;

  const Dataset& dataset() const;
  const Transform& transform() const;
  /// Damaged samples met so far, by index.
  std::vector<DamagedSample> damaged() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The order of an epoch: a permutation of 0 to n - 1 from (seed, epoch).
std::vector<int64_t> epoch_order(int64_t n, uint64_t seed, int64_t epoch);

}  // namespace aspis::data
