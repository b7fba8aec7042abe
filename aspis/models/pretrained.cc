#include "aspis/models/pretrained.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "aspis/base/error.h"
#include "aspis/base/file.h"
#include "aspis/io/config_json.h"
#include "aspis/io/names.h"
#include "aspis/nn/init.h"

namespace aspis {
namespace {

namespace fs = std::filesystem;

PublishedWeights mambavision(const char* model, const char* place, double crop_pct, double top1, double top5,
                             const char* crop_mode = "center") {
  PublishedWeights w;
  w.model = model;
  w.weights = place;
  w.licence = "CC-BY-NC-SA-4.0 (no commercial use)";
  w.top1 = top1;
  w.top5 = top5;
  w.source = "NVlabs/MambaVision, README (arXiv 2407.08083)";
  w.crop_pct = crop_pct;
  w.crop_mode = crop_mode;
  return w;
}

PublishedWeights of(const char* model, const char* place, const char* licence, const char* source, double top1) {
  PublishedWeights w;
  w.model = model;
  w.weights = place;
  w.licence = licence;
  w.source = source;
  w.top1 = top1;
  return w;
}

PublishedWeights vim(const char* model, const char* place, double top1) {
  return of(model, place, "Apache-2.0 (of the repository)", "hustvl/Vim, README (arXiv 2401.09417)", top1);
}

PublishedWeights vmamba(const char* model, double top1) {
  return of(model, "github.com/MzeroMiko/VMamba, releases", "MIT (of the repository)",
            "MzeroMiko/VMamba, README (arXiv 2401.10166)", top1);
}

// What timm publishes under these names; the figures are in its own tables.
PublishedWeights timm(const char* model, const char* place, const char* licence = "Apache-2.0") {
  return of(model, place, licence, "", 0);
}

PublishedWeights timm_vit(const char* model, const char* place) {
  PublishedWeights w = timm(model, place);
  w.crop_pct = 0.9;
  w.mean = w.std = {0.5, 0.5, 0.5};
  return w;
}

PublishedWeights timm_resnet(const char* model, const char* place) {
  PublishedWeights w = timm(model, place, "BSD-3-Clause");
  w.interpolation = "bilinear";
  return w;
}

[[noreturn]] void fail(const fs::path& where, std::string required, std::string got, std::string hint) {
  throw Error(
      ErrorKind::kModel,
      {.where = where.string(), .required = std::move(required), .got = std::move(got), .hint = std::move(hint)});
}

bool present(const fs::path& path) {
  std::error_code ec;
  return fs::exists(path, ec);
}

// Letters, digits and "._-": a part of a repository's name or a revision.
bool plain_word(std::string_view s) {
  return !s.empty() && s.front() != '.' && s.size() <= 200 && std::all_of(s.begin(), s.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '.' || c == '_' || c == '-';
  });
}

std::string config_of(const fs::path& folder) {
  const fs::path file = folder / "config.json";
  return present(file) ? read_file(file, ErrorKind::kModel, int64_t{1} << 20) : "";
}

// A config.json of the Transformers library, whose words are not ours.
bool foreign(const std::string& config) {
  return config.find("\"architectures\"") != std::string::npos ||
         config.find("\"auto_map\"") != std::string::npos || config.find("\"_name_or_path\"") != std::string::npos;
}

}  // namespace

const PublishedWeights* published_weights(std::string_view model) {
  static const std::vector<PublishedWeights> list{
      mambavision("mamba_vision_T", "nvidia/MambaVision-T-1K", 1.0, 82.3, 96.2),
      mambavision("mamba_vision_T2", "nvidia/MambaVision-T2-1K", 0.98, 82.7, 96.3),
      mambavision("mamba_vision_S", "nvidia/MambaVision-S-1K", 0.93, 83.3, 96.5),
      mambavision("mamba_vision_B", "nvidia/MambaVision-B-1K", 1.0, 84.2, 96.9),
      mambavision("mamba_vision_B_21k", "nvidia/MambaVision-B-21K", 1.0, 84.9, 97.5),
      mambavision("mamba_vision_L", "nvidia/MambaVision-L-1K", 1.0, 85.0, 97.1),
      mambavision("mamba_vision_L_21k", "nvidia/MambaVision-L-21K", 1.0, 86.1, 97.9),
      mambavision("mamba_vision_L2", "nvidia/MambaVision-L2-1K", 1.0, 85.3, 97.2),
      mambavision("mamba_vision_L2_512_21k", "nvidia/MambaVision-L2-512-21K", 0.93, 87.3, 98.4, "squash"),
      mambavision("mamba_vision_L3_256_21k", "nvidia/MambaVision-L3-256-21K", 1.0, 87.3, 98.3),
      mambavision("mamba_vision_L3_512_21k", "nvidia/MambaVision-L3-512-21K", 0.93, 88.1, 98.6, "squash"),
      vim("vim_tiny_patch16_224", "hustvl/Vim-tiny-midclstok", 76.1),
      vim("vim_tiny_patch16_stride8_224", "hustvl/Vim-tiny-midclstok", 78.3),
      vim("vim_small_patch16_224", "hustvl/Vim-small-midclstok", 80.5),
      vim("vim_small_patch16_stride8_224", "hustvl/Vim-small-midclstok", 81.6),
      vim("vim_base_patch16_224", "hustvl/Vim-base-midclstok", 81.9),
      vmamba("vmamba_tiny_s1l8", 82.6),
      vmamba("vmamba_small_s2l15", 83.6),
      vmamba("vmamba_base_s2l15", 83.9),
      timm_vit("vit_tiny_patch16_224", "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
      timm_vit("vit_small_patch16_224", "timm/vit_small_patch16_224.augreg_in21k_ft_in1k"),
      timm_vit("vit_base_patch16_224", "timm/vit_base_patch16_224.augreg_in21k_ft_in1k"),
      timm("convnext_tiny", "timm/convnext_tiny.fb_in1k"),
      timm("convnext_small", "timm/convnext_small.fb_in1k"),
      timm("convnext_base", "timm/convnext_base.fb_in1k"),
      timm_resnet("resnet50", "timm/resnet50.tv_in1k"),
  };
  const auto at = std::find_if(list.begin(), list.end(), [&](const auto& w) { return w.model == model; });
  return at == list.end() ? nullptr : &*at;
}

Overrides published_overrides(const ModelEntry& entry, const WeightFile& file) {
  if (entry.model_type == "mambavision") return {{"compat", "true"}};
  if (entry.model_type == "vision_mamba" && file.kind() == WeightKind::kNpz) return {{"scan_order", "compat"}};
  return {};
}

fs::path hub_cache() {
  const auto variable = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value ? value : "";
  };
  if (const auto cache = variable("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (const auto home = variable("HF_HOME"); !home.empty()) return fs::path(home) / "hub";
  return fs::path(variable("HOME")) / ".cache/huggingface/hub";
}

fs::path find_model_files(const std::string& name) {
  if (present(name)) return name;
  const size_t at = name.find('@');
  const std::string repository = name.substr(0, at),
                    revision = at == std::string::npos ? "main" : name.substr(at + 1);
  const size_t slash = repository.find('/');
  const bool hub = slash != std::string::npos && plain_word(repository.substr(0, slash)) &&
                   plain_word(repository.substr(slash + 1)) && plain_word(revision);
  if (!hub) {
    fail(name, "a weight file, a model folder, a run folder or the name of a model on the hub is needed",
         "nothing there", "aspis model list");
  }
  const std::string download =
      "hf download " + repository + (at == std::string::npos ? "" : " --revision " + revision);
  const fs::path folder =
      hub_cache() / ("models--" + repository.substr(0, slash) + "--" + repository.substr(slash + 1));
  if (!present(folder)) {
    fail(name, fmt::format("the model must be in the cache of the hub, {}", hub_cache().string()),
         "nothing of that name", download);
  }
  std::string commit = revision;
  if (const fs::path ref = folder / "refs" / revision; present(ref)) {
    commit = read_file(ref, ErrorKind::kModel, 1000);
    commit.erase(commit.find_last_not_of(" \n\r") + 1);
    if (!plain_word(commit)) fail(ref, "the name of a snapshot is needed", shown_name(commit), download);
  }
  fs::path snapshot = folder / "snapshots" / commit;
  if (!present(snapshot))
    fail(name, fmt::format("revision {} must be in the cache", revision), "no such snapshot", download);
  return snapshot;
}

fs::path weights_in_folder(const fs::path& folder) {
  for (const char* name : {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"}) {
    if (present(folder / name)) return folder / name;
  }
  std::vector<fs::path> files;
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator(folder, ec)) {
    const std::string file = entry.path().filename().string();
    for (const char* ending : {".safetensors", ".pth", ".pt", ".bin", ".pth.tar", ".npz"}) {
      if (file.ends_with(ending)) {
        files.push_back(entry.path());
        break;
      }
    }
  }
  if (files.size() == 1) return files[0];
  fail(folder, "a model folder must hold model.safetensors or one weight file",
       files.empty() ? "none" : fmt::format("{} of them", files.size()),
       files.empty() ? "the folder of 'aspis convert', or a weight file" : "one of the files");
}

std::string model_named_in(const fs::path& path, const std::vector<std::string>& models) {
  std::set<std::string> parts;
  for (const auto& part : path) {
    const std::string name = part.string();
    parts.insert(name.substr(0, name.find(".safetensors")));
    if (const size_t at = name.rfind("--"); at != std::string::npos) parts.insert(name.substr(at + 2));
  }
  std::string found;
  for (const std::string& model : models) {
    const PublishedWeights* known = published_weights(model);
    const std::string own = known ? known->weights.substr(known->weights.rfind('/') + 1) : "";
    if (!parts.contains(model) && (own.empty() || !parts.contains(own))) continue;
    if (!found.empty()) return "";
    found = model;
  }
  return found;
}

Overrides overrides_for_weights(const ModelEntry& entry, const fs::path& path, const WeightFile& file) {
  Overrides all = published_overrides(entry, file);
  const std::string config = config_of(path);
  if (config.empty() || foreign(config)) return all;
  ConfigReader reader(config, (path / "config.json").string());
  for (auto& [key, value] : all) {
    if (!reader.has(key)) continue;
    if (key == "compat") {
      bool flag = false;
      reader.flag(key, flag);
      value = flag ? "true" : "false";
    } else {
      reader.text(key, value);
    }
  }
  return all;
}

Pretrained open_pretrained(const fs::path& path, const std::string& name, const Overrides& overrides,
                           const WeightOptions& options, uint64_t seed) {
  std::error_code ec;
  const bool folder = fs::is_directory(path, ec);
  Pretrained p;
  p.file = folder ? weights_in_folder(path) : path;
  const fs::path home = folder ? path : fs::path();
  std::string config = folder ? config_of(home) : "";
  if (folder && present(home / "preprocessor_config.json")) {
    p.preprocessor = read_file(home / "preprocessor_config.json", ErrorKind::kModel, int64_t{1} << 20);
  }
  const WeightFile file = WeightFile::open(p.file);
  const bool blank = !options.adapt && !options.partial;  // everything is loaded
  const auto make = [&](const std::string& model_name) {
    Overrides all = published_overrides(find_model(model_name), file);
    all.insert(all.end(), overrides.begin(), overrides.end());
    p.name = model_name;
    p.model = make_model(model_name, all, seed);
  };
  {
    std::optional<BlankWeights> zeros;
    if (blank) zeros.emplace();
    if (!name.empty()) {
      make(name);
    } else if (!config.empty() && !foreign(config)) {
      p.model = make_model_from_config(config, seed, (home / "config.json").string());
    } else {
      std::vector<std::string> names = models_of(file);
      if (auto named = model_named_in(fs::absolute(p.file), names); !named.empty()) names = {std::move(named)};
      // Several names with one config are one model.
      std::set<std::string> configs;
      for (const auto& n : names) configs.insert(resolve_config(n));
      if (configs.size() > 1) {
        fail(p.file, "the shapes of the weights must tell which model they are",
             fmt::format("weights of {}", fmt::join(names, " or ")),
             "aspis convert FILE --model NAME, which settles it");
      }
      if (names.empty()) {
        fail(p.file, "weights of a known model are needed",
             fmt::format("{} tensors that fit none", file.tensors().size()),
             "aspis model check FILE --model NAME, which lists the differences; --set for another size");
      }
      make(names[0]);
    }
  }
  p.report = load_weights(*p.model, file, options);
  p.model->eval();
  return p;
}

}  // namespace aspis
