#pragma once

#include <string>

namespace aspis {

/// The tightest CPU quota of a process's control group and all above it (versions 1
/// and 2), in cores; 0 if there is none.
///
/// @param root    where control groups are mounted, "/sys/fs/cgroup"
/// @param groups  the text of /proc/self/cgroup
double cgroup_cores(const std::string& root, const std::string& groups);

}  // namespace aspis
