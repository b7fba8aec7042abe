#include "aspis/models/weights.h"

#include <mlx/ops.h>

#include <cstdlib>
#include <filesystem>

#include "aspis/base/error.h"
#include "aspis/models/mambavision.h"
#include "aspis/models/pretrained.h"
#include "aspis/models/vim.h"
#include "aspis/models/vision_mamba.h"
#include "aspis/models/vmamba.h"
#include "aspis/nn/test_support.h"

namespace aspis {
namespace {

namespace fs = std::filesystem;
using golden::load_case;
using golden::normalised_error;
using golden::values_of;

std::string data(const std::string& name) { return ASPIS_SOURCE_DIR "/tests/data/weights/" + name; }

MambaVisionConfig mambavision() {
  MambaVisionConfig c;
  c.img_size = 64;
  c.in_channels = 2;
  c.num_classes = 3;
  c.dim = 2;
  c.in_dim = 3;
  c.depths = {1, 1, 3, 2};
  c.num_heads = {1, 1, 2, 4};
  c.window_size = {8, 8, 3, 2};
  c.mlp_ratio = 2;
  c.d_state = 3;
  c.layer_scale = 1;
  c.compat = true;
  return c;
}

VimConfig vim() {
  VimConfig c;
  c.img_size = 12;
  c.patch_size = c.stride = 4;
  c.in_channels = 2;
  c.embed_dim = 8;
  c.depth = 2;
  c.d_state = 3;
  c.num_classes = 3;
  return c;
}

VisionMambaConfig vision_mamba() {
  VisionMambaConfig c;
  c.img_size = 12;
  c.patch_size = 4;
  c.in_channels = 2;
  c.embed_dim = 8;
  c.depth = 2;
  c.d_state = 4;
  c.num_classes = 3;
  return c;
}

void expect_golden(ImageModel& model, const std::string& file, const std::string& set, const std::string& name) {
  const auto golden = load_case(name, set);
  const WeightReport report = load_weights(model, WeightFile::open(data(file)));
  CHECK(report.complete());
  CHECK(report.fitting == report.expected);
  CHECK(report.expected == static_cast<int64_t>(model.state().size()));
  model.eval();
  CHECK(normalised_error(model.logits(golden.at("in/images")), golden.at("out/logits")) < 1e-5);
}

/// The tensors of a file as plain views, to be changed and written again.
struct Tensors {
  explicit Tensors(const std::string& file, const std::string& group = "") : source(WeightFile::open(data(file))) {
    buffers.resize(source.tensors().size());
    for (size_t i = 0; i < buffers.size(); i++) {
      if (source.tensors()[i].group == group) list.push_back(source.tensors()[i].packed(buffers[i]));
    }
  }
  TensorView& at(const std::string& name) {
    for (TensorView& t : list) {
      if (t.name == name) return t;
    }
    FAIL(name);
    return list[0];
  }
  WeightFile write() const {
    return WeightFile::parse(write_safetensors(list, {{"format", "pt"}}), "changed.safetensors");
  }

  WeightFile source;
  std::vector<std::string> buffers;
  std::vector<TensorView> list;
};

std::string refusal(ImageModel& model, const WeightFile& file, const WeightOptions& options = {}) {
  const auto before = values_of(model.state()[0].second);
  try {
    load_weights(model, file, options);
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::kModel);
    CHECK(values_of(model.state()[0].second) == before);
    return e.what();
  }
  return "";
}

bool mentions(const std::string& text, const std::string& part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE(text);
  return found;
}

class Folder {
 public:
  Folder() : path(fs::path(ASPIS_BINARY_DIR) / "weights_test") {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() {
    std::error_code ec;
    fs::remove_all(path, ec);
  }
  void put(const std::string& name, std::string_view bytes) const {
    fs::create_directories((path / name).parent_path());
    write_file_atomic(path / name, bytes, false);
  }
  fs::path path;
};

}  // namespace

TEST_CASE("published checkpoints load strictly and give the logits of the reference") {
  MambaVision wrapped(mambavision(), 5), hub(mambavision(), 6);
  expect_golden(wrapped, "mambavision.pth.tar", "mambavision", "compat");
  expect_golden(hub, "mambavision_hub.safetensors", "mambavision", "compat");
  Vim old_format(vim(), 5);
  expect_golden(old_format, "vim.pth", "vim", "square");
  VisionMamba npz(vision_mamba(), 5);
  expect_golden(npz, "vision_mamba.npz", "vision_mamba", "vision_mamba");
}

TEST_CASE("weights are found in the dict and behind the prefix they lie in, their running average when asked") {
  MambaVision model(mambavision());
  const WeightFile file = WeightFile::open(data("mambavision.pth.tar"));
  const WeightReport report = match_weights(model, file);
  CHECK(report.group == "state_dict");
  CHECK(report.prefix == "module.");
  CHECK(report.channels_first);
  CHECK_FALSE(report.unused.empty());  // num_batches_tracked
  const WeightReport average = load_weights(model, file, {.ema = true});
  CHECK(average.group == "state_dict_ema");
  const auto twice = values_of(model.head->bias.value());
  load_weights(model, file);
  const auto once = values_of(model.head->bias.value());
  for (size_t i = 0; i < once.size(); i++) CHECK(twice[i] == 2 * once[i]);
  CHECK(match_weights(model, WeightFile::open(data("mambavision_hub.safetensors"))).prefix == "model.");
  CHECK_FALSE(
      match_weights(VisionMamba(vision_mamba()), WeightFile::open(data("vision_mamba.npz"))).channels_first);
  Vim other(vim());
  CHECK(mentions(refusal(other, WeightFile::open(data("vim.pth")), {.ema = true}), "leave out --ema"));
}

TEST_CASE("a tensor that is missing, renamed or of another shape is refused by its name") {
  Vim model(vim(), 3);
  {
    Tensors t("vim.pth", "model");
    std::erase_if(t.list, [](const TensorView& v) { return v.name == "layers.1.mixer.D_b"; });
    CHECK(mentions(refusal(model, t.write()), "1 missing (layers.1.mixer.D_b)"));
  }
  {
    Tensors t("vim.pth", "model");
    t.at("norm_f.weight").name = "norm.weight";
    const std::string message = refusal(model, t.write());
    CHECK(mentions(message, "1 missing (norm_f.weight); 1 unknown (norm.weight)"));
    CHECK(mentions(message, "--partial"));
    const std::string text = match_weights(model, t.write()).text();
    CHECK(mentions(text, "missing in the file (1)\n    norm_f.weight\n"));
    CHECK(mentions(text, "unknown to the model (1)\n    norm.weight\n"));
  }
  {
    Tensors t("vim.pth", "model");
    t.at("layers.0.mixer.x_proj.weight").shape = {8, 14};
    CHECK(mentions(refusal(model, t.write()), "layers.0.mixer.x_proj.weight is {8, 14}, not {7, 16}"));
  }
  {
    Tensors t("vim.pth", "model");
    t.at("head.bias").dtype = TensorDtype::kI32;
    CHECK(mentions(refusal(model, t.write()), "head.bias holds I32"));
  }
  {
    // Half precision is taken as it is.
    Tensors t("vim.pth", "model");
    const std::string half("\x00\x3c\x00\xc0\x00\x38", 6);
    t.at("head.bias").dtype = TensorDtype::kF16;
    t.at("head.bias").bytes = half;
    load_weights(model, t.write());
    CHECK(values_of(model.head->bias.value()) == std::vector<double>{1, -2, 0.5});
  }
  // A byte changed in the middle of the data: checksums of zip archives tell.
  std::string bytes = read_file(data("mambavision.pth.tar"));
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  CHECK_THROWS_WITH_AS(WeightFile::parse(bytes, "flipped.pth"), doctest::Contains("checksum"), Error);
}

TEST_CASE("weights of another family or size are refused") {
  Vim model(vim(), 3);
  const std::string other = refusal(model, WeightFile::open(data("mambavision.pth.tar")));
  CHECK(mentions(other, "aspis model check"));
  VimConfig wide = vim();
  wide.embed_dim = 16;
  Vim large(wide, 3);
  const std::string size = refusal(large, WeightFile::open(data("vim.pth")));
  CHECK(mentions(size, "of another shape"));
  CHECK(mentions(size, "aspis model check"));
  CHECK(refusal(large, WeightFile::open(data("vim.pth")), {.adapt = true}) != "");
}

TEST_CASE("adapting resizes positions around the class token and keeps the model's own classifier") {
  VimConfig c = vim();
  c.img_size = 20;
  c.num_classes = 7;
  Vim model(c, 3);
  const WeightFile file = WeightFile::open(data("vim.pth"));
  CHECK(mentions(refusal(model, file), "pos_embed is {1, 10, 8}, not {1, 26, 8}"));
  CHECK(mentions(refusal(model, file), "--adapt"));
  const auto head = values_of(model.head->weight);
  const WeightReport report = load_weights(model, file, {.adapt = true});
  CHECK(report.adapted.size() == 3);
  CHECK(values_of(model.head->weight) == head);
  // The class token's entry is copied; a corner keeps its sign and a constant table stays constant.
  const auto old = values_of(load_case("square", "vim").at("param/pos_embed")), now = values_of(model.pos_embed);
  for (size_t i = 0; i < 8; i++) CHECK(now[12 * 8 + i] == old[4 * 8 + i]);
  double sum = 0;
  for (const double v : now) sum += std::abs(v);
  CHECK(sum > 0);
  {
    Tensors t("vim.pth", "model");
    const std::vector<float> ones(80, 2.5f);
    t.at("pos_embed").bytes = {reinterpret_cast<const char*>(ones.data()), 320};
    load_weights(model, t.write(), {.adapt = true});
    for (const double v : values_of(model.pos_embed)) CHECK(v == doctest::Approx(2.5));
  }
  // Without classes the file's classifier is left out; with classes and none in the file the model's stays.
  c.num_classes = 0;
  Vim body(c, 3);
  CHECK(mentions(refusal(body, file), "2 unknown (head.bias, head.weight)"));
  CHECK(load_weights(body, file, {.adapt = true}).unused.size() == 2);
  Tensors t("vim.pth", "model");
  std::erase_if(t.list, [](const TensorView& v) { return v.name.starts_with("head."); });
  load_weights(model, t.write(), {.adapt = true});
  CHECK(values_of(model.head->weight) == head);
}

TEST_CASE("adapting changes the channels of the first convolution so that equal channels give the same") {
  const WeightFile file = WeightFile::open(data("vim.pth"));
  Vim two(vim(), 3);
  load_weights(two, file);
  const auto grey = mx::sin(mx::reshape(mx::arange(144.0), {1, 12, 12, 1}));
  const auto want = two.logits(mx::concatenate({grey, grey}, 3));
  for (const int channels : {1, 3, 5}) {
    CAPTURE(channels);
    VimConfig c = vim();
    c.in_channels = channels;
    Vim model(c, 3);
    CHECK(mentions(refusal(model, file), "--adapt"));
    CHECK(load_weights(model, file, {.adapt = true}).adapted.size() == 1);
    // Odd numbers of channels take one of the two once more: equal only if the two agree.
    if (channels != 1) continue;
    CHECK(normalised_error(model.logits(grey), want) < 1e-5);
  }
}

TEST_CASE("partial loading takes what fits, and only that") {
  Vim model(vim(), 3);
  const auto head = values_of(model.head->weight);
  Tensors t("vim.pth", "model");
  t.at("head.weight").shape = {8, 3};
  std::erase_if(t.list, [](const TensorView& v) { return v.name == "cls_token"; });
  const auto cls = values_of(model.cls_token);
  const WeightReport report = load_weights(model, t.write(), {.partial = true});
  CHECK_FALSE(report.complete());
  CHECK(report.fitting == report.expected - 2);
  CHECK(values_of(model.head->weight) == head);
  CHECK(values_of(model.cls_token) == cls);
  CHECK(values_of(model.norm_f.weight) == values_of(load_case("square", "vim").at("param/norm_f.weight")));
  const std::string zero = write_safetensors({{"a", TensorDtype::kF32, {0}, ""}});
  CHECK(mentions(refusal(model, WeightFile::parse(zero, "x"), {.partial = true}), "none of its"));
}

TEST_CASE("1 x 1 convolutions and linear layers stand for each other") {
  Vim model(vim(), 3);
  Tensors t("vim.pth", "model");
  t.at("layers.0.mixer.in_proj.weight").shape = {32, 8, 1, 1};
  t.at("head.weight").shape = {3, 8, 1, 1};
  CHECK(load_weights(model, t.write()).complete());
  CHECK(values_of(model.head->weight) == values_of(load_case("square", "vim").at("param/head.weight")));
}

TEST_CASE("the order of axes is told by the shapes, whatever the file says of itself") {
  Vim model(vim(), 3);
  const Tensors t("vim.pth", "model");
  for (const char* format : {"mlx", "pt", "other"}) {
    const WeightFile file = WeightFile::parse(write_safetensors(t.list, {{"format", format}}), "x.safetensors");
    CHECK(load_weights(model, file).channels_first);
  }
}

TEST_CASE("the names of other implementations are translated") {
  Vim model(vim(), 3);
  Tensors t("vim.pth", "model");
  for (TensorView& v : t.list) {
    if (const size_t at = v.name.find("A_b_log"); at != std::string::npos) v.name.replace(at, 7, "A_log_b");
    v.name = "_orig_mod.backbone." + v.name;
  }
  const WeightReport report = load_weights(model, t.write());
  CHECK(report.complete());
  CHECK(report.prefix == "_orig_mod.backbone.");
  // A running average beside the weights, under a prefix of its own, does not count as unknown.
  std::vector<std::string> names;
  const size_t n = t.list.size();
  for (size_t i = 0; i < n; i++) {
    TensorView copy = t.list[i];
    copy.name = "model_ema." + copy.name.substr(19);
    t.list.push_back(copy);
  }
  CHECK(match_weights(model, t.write()).unused.size() == n);
  CHECK(match_weights(model, t.write(), {.ema = true}).prefix == "model_ema.");
}

TEST_CASE("the names of VMamba's first releases are translated, and linear layers may be 1 x 1 convolutions") {
  VMambaConfig c;
  c.img_size = 32;
  c.num_classes = 3;
  c.dim = 8;
  c.depths = {1, 1, 1, 1};
  c.d_state = 2;
  const VMamba model(c, 1);
  NamedArrays old;
  for (auto [name, value] : model.state()) {
    const auto rename = [&, &key = name](const std::string& from, const std::string& to) {
      if (const size_t at = key.find(from); at != std::string::npos) key.replace(at, from.size(), to);
    };
    rename("patch_embed.0.", "patch_embed.proj.");
    rename("patch_embed.2.", "patch_embed.norm.");
    rename(".norm.",
           name.starts_with("layers") && name.find("downsample") == std::string::npos ? ".ln_1." : ".norm.");
    rename(".op.", ".self_attention.");
    rename("classifier.", "");
    if (name.ends_with("in_proj.weight")) value = mx::reshape(value, {value.shape(0), value.shape(1), 1, 1});
    old.emplace_back(name, value);
  }
  VMamba other(c, 2);
  const WeightReport report = load_weights(other, WeightFile::parse(dump_arrays(old), "old.safetensors"));
  CHECK(report.complete());
  const auto images = mx::reshape(mx::arange(32.0 * 32 * 3), {1, 32, 32, 3}) / mx::array(3072.f);
  CHECK(values_of(other.logits(images)) == values_of(model.logits(images)));
}

TEST_CASE("the model of a file is told by its shapes, and model folders and the hub's cache are opened") {
  const Folder folder;
  std::string bytes;
  {
    const auto tiny = make_model("vim_tiny_patch16_224", {}, 1);
    bytes = dump_arrays(tiny->state());
  }
  const std::string hub = "hub/models--hustvl--Vim-tiny/";
  folder.put(hub + "snapshots/abc123/model.safetensors", bytes);
  folder.put(hub + "refs/main", "abc123\n");
  const fs::path file = folder.path / (hub + "snapshots/abc123/model.safetensors");
  CHECK(models_of(WeightFile::open(file)) == std::vector<std::string>{"vim_tiny_patch16_224"});
  CHECK(models_of(WeightFile::open(data("vim.pth"))).empty());

  ::setenv("HF_HUB_CACHE", (folder.path / "hub").c_str(), 1);
  CHECK(find_model_files("hustvl/Vim-tiny") == file.parent_path());
  CHECK(find_model_files("hustvl/Vim-tiny@abc123") == file.parent_path());
  CHECK_THROWS_WITH_AS(find_model_files("hustvl/Vim-small"), doctest::Contains("hf download hustvl/Vim-small"),
                       Error);
  CHECK_THROWS_WITH_AS(find_model_files("hustvl/Vim-tiny@other"),
                       doctest::Contains("hf download hustvl/Vim-tiny --revision other"), Error);
  CHECK_THROWS_WITH_AS(find_model_files("../../etc"), doctest::Contains("nothing there"), Error);
  folder.put(hub + "refs/evil", "../../../..");
  CHECK_THROWS_WITH_AS(find_model_files("hustvl/Vim-tiny@evil"), doctest::Contains("the name of a snapshot"),
                       Error);
  ::unsetenv("HF_HUB_CACHE");
  ::setenv("HF_HOME", folder.path.c_str(), 1);
  const Pretrained p = open_pretrained(find_model_files("hustvl/Vim-tiny"));
  ::unsetenv("HF_HOME");
  CHECK(p.name == "vim_tiny_patch16_224");
  CHECK(p.report.complete());
  CHECK_FALSE(p.model->training());

  // A config beside the weights decides, unless it is one of the Transformers library.
  folder.put(hub + "snapshots/abc123/config.json", R"({"architectures": ["Vim"], "hidden_size": 192})");
  CHECK(open_pretrained(file.parent_path()).name == "vim_tiny_patch16_224");
  folder.put(hub + "snapshots/abc123/config.json", R"({"model_type": "vim", "divide_out": false})");
  const Pretrained with = open_pretrained(file.parent_path());
  CHECK(with.name.empty());
  CHECK(mentions(with.model->config_json(), "\"divide_out\": false"));
  folder.put(hub + "snapshots/abc123/config.json", R"({"model_type": "vim", "depht": 3})");
  CHECK_THROWS_WITH_AS(open_pretrained(file.parent_path()), doctest::Contains("depht"), Error);

  CHECK_THROWS_WITH_AS(open_pretrained(data("vim.pth")), doctest::Contains("fit none"), Error);
  CHECK_THROWS_WITH_AS(open_pretrained(folder.path), doctest::Contains("model.safetensors"), Error);
  CHECK_THROWS_WITH_AS(open_pretrained(file, "vim_small_patch16_224"), doctest::Contains("of another shape"),
                       Error);
}

TEST_CASE("of models with the same tensors the path tells which it is") {
  const std::vector<std::string> two{"mamba_vision_L2", "mamba_vision_L2_512_21k"};
  const fs::path hub = "/cache/hub";
  CHECK(model_named_in(hub / "models--nvidia--MambaVision-L2-512-21K/snapshots/a/model.safetensors", two) ==
        two[1]);
  CHECK(model_named_in(hub / "models--nvidia--MambaVision-L2-1K/snapshots/a/model.safetensors", two) == two[0]);
  CHECK(model_named_in("/models/mamba_vision_L2/model.safetensors", two) == two[0]);
  CHECK(model_named_in("/models/mamba_vision_L2.safetensors", two) == two[0]);
  CHECK(model_named_in("/models/MambaVision-L2-512-21K-mine/model.safetensors", two).empty());
  CHECK(model_named_in("/MambaVision-L2-1K/MambaVision-L2-512-21K/model.safetensors", two).empty());
  CHECK(model_named_in("model.safetensors", two).empty());
}

TEST_CASE("published figures name models of the table, and ImageNet has its classes") {
  for (const ModelEntry& entry : model_table()) {
    const PublishedWeights* w = published_weights(entry.name);
    const bool ours = entry.model_type == "mambavision" || entry.model_type == "vim";
    CHECK((w != nullptr || !ours));
    if (!w) continue;
    CHECK_FALSE(w->licence.empty());
    CHECK((w->top1 == 0 || (w->top1 > 70 && w->top1 < 90)));
    CHECK((w->top1 > 0) == !w->source.empty());
    if (ours) CHECK(w->top1 > 0);
  }
  CHECK(imagenet_classes().size() == 1000);
  CHECK(imagenet_classes()[0] == "n01440764 tench");
  CHECK(imagenet_classes()[999].starts_with("n15075141 "));
}

// By hand: tools/golden/make_checkpoints.py FOLDER makes the files.
TEST_CASE("checkpoints in full size load strictly and give the logits of the reference" * doctest::skip()) {
  const char* folder = std::getenv("ASPIS_CHECKPOINTS");
  REQUIRE(folder != nullptr);
  int files = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string file = entry.path().filename().string(), model = file.substr(0, file.find('.'));
    if (file.find(".pth") == std::string::npos) continue;
    files++;
    CAPTURE(file);
    const Pretrained p = open_pretrained(entry.path());
    CHECK(p.name == model);
    const auto golden = load_arrays(read_file(fs::path(folder) / (model + ".golden.safetensors")), model);
    const auto at = [&](const std::string& key) {
      return std::find_if(golden.begin(), golden.end(), [&](const auto& g) { return g.first == key; })->second;
    };
    const double error = normalised_error(p.model->logits(at("images")), at("logits"));
    MESSAGE(model << ": " << error);
    CHECK(error < 1e-4);
  }
  CHECK(files >= 3);
}

}  // namespace aspis
