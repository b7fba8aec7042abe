#include "aspis/base/cgroup.h"

#include <cstdlib>
#include <fstream>
#include <sstream>

namespace aspis {
namespace {

// Quota over period of one group in cores, or 0 if there is no limit.
double quota_in(const std::string& folder, bool unified) {
  std::string quota;
  double period = 0;
  if (unified) {
    std::ifstream(folder + "/cpu.max") >> quota >> period;
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  const double us = std::atof(quota.c_str());  // "max" and absence give 0, -1 is no limit
  return us > 0 && period > 0 ? us / period : 0;
}

}  // namespace

double cgroup_cores(const std::string& root, const std::string& groups) {
  double least = 0;
  const auto note = [&](double cores) {
    if (cores > 0 && (least == 0 || cores < least)) least = cores;
  };
  const auto walk = [&](const std::string& base, std::string path, bool unified) {
    for (;;) {
      note(quota_in(base + path, unified));
      const size_t slash = path.find_last_of('/');
      if (slash == std::string::npos) return;
      path.resize(slash);
    }
  };
  // Inside a container the group's own folder is the root, whatever its path says.
  note(quota_in(root, true));
  note(quota_in(root + "/cpu", false));
  note(quota_in(root + "/cpu,cpuacct", false));
  std::istringstream lines(groups);
  for (std::string line; std::getline(lines, line);) {  // number:controllers:path
    const size_t first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (path == "/" || path.find("..") != std::string::npos) continue;
    if (controllers == ",,") {
      walk(root, path, true);
    } else if (controllers.find(",cpu,") != std::string::npos) {
      walk(root + "/cpu", path, false);
      walk(root + "/cpu,cpuacct", path, false);
    }
  }
  return least;
}

}  // namespace aspis
