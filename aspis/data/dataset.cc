#include "aspis/data/dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "aspis/data/stats.h"

namespace aspis::data {

std::string_view to_string(Split split) {
  switch (split) {
    case Split::kTrain:
      return "train";
    case Split::kVal:
      return "val";
    case Split::kTest:
      return "test";
  }
  return "?";
}

Split parse_split(std::string_view name) {
  for (const Split split : {Split::kTrain, Split::kVal, Split::kTest}) {
    if (name == to_string(split)) return split;
  }
  const std::vector<std::string> names = {"train", "val", "test"};
  const std::string near = nearest_word(name, names);
  throw Error(ErrorKind::kUsage, {.where = "split",
                                  .required = "the split must be train, val or test",
                                  .got = std::string(name),
                                  .hint = near});
}

std::string Dataset::sample_name(int64_t index) const {
  return fmt::format("{}/{}[{}]", name_, to_string(split_), index);
}

std::string Dataset::describe() const {
  const Geometry& g = geometry_;
  const auto axis = [](int n) { return n > 0 ? std::to_string(n) : std::string("?"); };
  const std::string volume = g.slices > 1 ? fmt::format("{} x ", g.slices) : "";
  return fmt::format("{} ({}): {} {}, {} classes, {}{} x {} x {}, {}", name_, to_string(split_), size(),
                     g.slices > 1 ? "volumes" : "pictures", classes_.size(), volume, axis(g.height / g.slices),
                     axis(g.width), axis(g.channels), source_);
}

void Dataset::check_index(int64_t index) const {
  require(index >= 0 && index < size(), [&] {
    return Error::Parts{.where = name_,
                        .required = fmt::format("a sample index must lie in 0 to {}", size() - 1),
                        .got = fmt::format("{}", index)};
  });
}

void check_same_kind(const Dataset& train, const Dataset& other) {
  const std::string where =
      fmt::format("{}: splits '{}' and '{}'", train.name(), to_string(train.split()), to_string(other.split()));
  require(
      train.classes().size() == other.classes().size(),
      [&] {
        return Error::Parts{.where = where,
                            .required = "both must have the same number of classes",
                            .got = fmt::format("{} and {}", train.classes().size(), other.classes().size())};
      },
      ErrorKind::kData);
  const auto differ = std::mismatch(train.classes().begin(), train.classes().end(), other.classes().begin());
  require(
      differ.first == train.classes().end(),
      [&] {
        return Error::Parts{.where = where,
                            .required = "both must have the same classes in the same order",
                            .got = fmt::format("'{}' and '{}' as class {}", *differ.first, *differ.second,
                                               differ.first - train.classes().begin())};
      },
      ErrorKind::kData);
  require(
      train.geometry() == other.geometry(),
      [&] {
        const Geometry &a = train.geometry(), &b = other.geometry();
        return Error::Parts{.where = where,
                            .required = "both must have pictures of the same size",
                            .got = fmt::format("{} x {} x {} and {} x {} x {}", a.height, a.width, a.channels,
                                               b.height, b.width, b.channels)};
      },
      ErrorKind::kData);
}

DatasetReport inspect(const Dataset& dataset, int threads) {
  DatasetReport report;
  report.samples = dataset.size();
  report.per_class.assign(dataset.classes().size(), 0);
  for (int64_t i = 0; i < report.samples; ++i) ++report.per_class[static_cast<size_t>(dataset.label(i))];

  struct Part {
    ChannelSums sums;
    Geometry smallest, largest;
    std::vector<DamagedSample> damaged;
  };
  std::vector<Part> parts(static_cast<size_t>(std::max(threads, 1)));
  const auto widen = [](Geometry& smallest, Geometry& largest, const Geometry& low, const Geometry& high) {
    if (!high.fixed()) return;
    const bool first = !largest.fixed();
    smallest = first ? low
                     : Geometry{std::min(smallest.height, low.height), std::min(smallest.width, low.width),
                                std::min(smallest.channels, low.channels)};
    largest = {std::max(largest.height, high.height), std::max(largest.width, high.width),
               std::max(largest.channels, high.channels)};
  };
  for_each_index(report.samples, threads, [&](int64_t i, int worker) {
    Part& part = parts[static_cast<size_t>(worker)];
    try {
      const Image image = dataset.get(i).image;
      const Geometry g{image.height, image.width, image.channels};
      part.sums.add(image);
      widen(part.smallest, part.largest, g, g);
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kData) throw;
      part.damaged.push_back({i, dataset.sample_name(i), e.what()});
    }
  });
  ChannelSums sums;
  for (Part& part : parts) {
    sums.merge(part.sums);
    widen(report.smallest, report.largest, part.smallest, part.largest);
    report.damaged.insert(report.damaged.end(), part.damaged.begin(), part.damaged.end());
  }
  std::sort(report.damaged.begin(), report.damaged.end(),
            [](const auto& a, const auto& b) { return a.index < b.index; });
  report.stats = sums.finish();
  return report;
}

}  // namespace aspis::data
