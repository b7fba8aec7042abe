#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace aspis::report {

// TensorBoard event files. A file is a row of records:
//   uint64 length | uint32 masked crc32c(length) | data | uint32 masked crc32c(data)
// little-endian, where data is a protobuf message `Event` of TensorFlow
// (event.proto, summary.proto). The first event holds "brain.Event:2".

/// CRC-32C (Castagnoli) of the bytes.
uint32_t crc32c(std::string_view bytes);

/// The rotated and offset form of it that record files use.
uint32_t masked_crc32c(std::string_view bytes);

/// One record around `data`.
std::string event_record(std::string_view data);

/// Events as protobuf bytes. `wall_time` is seconds since 1970.
std::string version_event(double wall_time);
struct TagValue {
  std::string tag;
  float value;
};
std::string scalar_event(double wall_time, int64_t step, const std::vector<TagValue>& values);
/// Width and height are read from the PNG header; other bytes give an empty
/// string, for which no record should be written.
std::string image_event(double wall_time, int64_t step, std::string_view tag, std::string_view png);
std::string text_event(double wall_time, int64_t step, std::string_view tag, std::string_view text);

/// The records of a file up to the first damaged one, without those of a step
/// beyond `last_step`.
std::string keep_events(std::string_view file, int64_t last_step);

}  // namespace aspis::report
