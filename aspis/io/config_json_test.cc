#include "aspis/io/config_json.h"

#include <doctest/doctest.h>

#include <limits>
#include <string>

using namespace aspis;

namespace {

// The message of the error that `f` throws; "" if none.
template <typename F>
std::string message_of(F&& f, ErrorKind kind = ErrorKind::kModel) {
  try {
    f();
  } catch (const Error& e) {
    CHECK(e.kind() == kind);
    return e.what();
  }
  return "";
}

std::string parse_message(const std::string& text) {
  return message_of([&] { ConfigReader(text, "config.json"); });
}

constexpr const char* kSample = R"({
  "model_type": "vim", "d_state": 16, "dropout": 0.25, "bias": true, "pool": "cls", "note": null,
  "patch": [4, 8], "rates": [0.5, 1], "names": ["a", "b"], "extra": {"keep": [1]},
  "mixer": {"dt_min": 0.001, "odd": 3}
})";

}  // namespace

TEST_CASE("typed values are read, absent and null keys leave the default") {
  ConfigReader r(kSample, "config.json");
  std::string type, pool = "mean", note = "default";
  int64_t state = 1;
  int width = 192;
  float dropout = 0;
  double dt_min = 0;
  bool bias = false;
  std::vector<int64_t> patch;
  std::vector<double> rates;
  std::vector<std::string> names;
  r.text("model_type", type);
  r.integer("d_state", state, 1, 1024);
  r.integer("width", width, 1, 8192);
  r.number("dropout", dropout, 0, 1);
  r.flag("bias", bias);
  r.choice("pool", pool, {"mean", "cls"});
  r.text("note", note);
  r.integers("patch", patch, 1, 64);
  r.numbers("rates", rates, 0, 1);
  r.texts("names", names);
  ConfigReader m = r.object("mixer");
  m.number("dt_min", dt_min, 0, 1);
  CHECK(type == "vim");
  CHECK(state == 16);
  CHECK(width == 192);
  CHECK(dropout == 0.25f);
  CHECK(dt_min == 0.001);
  CHECK(bias);
  CHECK(pool == "cls");
  CHECK(note == "default");
  CHECK(patch == std::vector<int64_t>{4, 8});
  CHECK(rates == std::vector<double>{0.5, 1});
  CHECK(names == std::vector<std::string>{"a", "b"});
  CHECK(r.has("d_state"));
  CHECK_FALSE(r.has("note"));
  CHECK_FALSE(r.object("absent").has("x"));
  CHECK(r.unknown_keys() == std::vector<std::string>{"extra", "mixer.odd"});
}

TEST_CASE("a wrong type or range is refused with the key's path") {
  ConfigReader r(kSample, "config.json");
  int64_t i = 0;
  double d = 0;
  bool b = false;
  std::string s;
  std::vector<int64_t> list;
  std::vector<std::string> texts;
  CHECK(message_of([&] { r.integer("dropout", i, 0, 9); }) ==
        "[config.json] dropout must be an integer in 0..9; got 0.25");
  CHECK(message_of([&] { r.integer("d_state", i, 1, 8); }) ==
        "[config.json] d_state must be an integer in 1..8; got 16");
  CHECK(message_of([&] { r.integer("pool", i, 1, 8); }) ==
        "[config.json] pool must be an integer in 1..8; got the string \"cls\"");
  CHECK(message_of([&] { r.integer("bias", i, 0, 8); }) ==
        "[config.json] bias must be an integer in 0..8; got true");
  CHECK(message_of([&] { r.number("dropout", d, 0.5, 1); }) ==
        "[config.json] dropout must be a number in 0.5..1; got 0.25");
  CHECK(message_of([&] { r.number("bias", d, 0, 1); }) == "[config.json] bias must be a number in 0..1; got true");
  CHECK(message_of([&] { r.flag("d_state", b); }) == "[config.json] d_state must be true or false; got 16");
  CHECK(message_of([&] { r.text("patch", s); }) == "[config.json] patch must be a string; got a list");
  CHECK(message_of([&] { r.integers("patch", list, 1, 4); }) ==
        "[config.json] patch[1] must be an integer in 1..4; got 8");
  CHECK(message_of([&] { r.integers("d_state", list, 1, 4); }) == "[config.json] d_state must be a list; got 16");
  CHECK(message_of([&] { r.texts("patch", texts); }) == "[config.json] patch[0] must be a string; got 4");
  CHECK(message_of([&] { r.choice("pool", s, {"mean", "clss", "none"}); }) ==
        "[config.json] pool must be one of mean, clss, none; got the string \"cls\". Try: clss");
  CHECK(message_of([&] { r.object("pool"); }) ==
        "[config.json] pool must be an object; got the string \"cls\"");
  ConfigReader m = r.object("mixer");
  CHECK(message_of([&] { m.number("dt_min", d, 0.01, 1); }) ==
        "[config.json] mixer.dt_min must be a number in 0.01..1; got 0.001");
  CHECK(message_of([&] { m.require_keys({"dt_min", "dt_max"}); }) == "[config.json] mixer.dt_max must be given");
  // Nothing was changed by a refusal.
  CHECK(i == 0);
  CHECK(list.empty());
}

TEST_CASE("unknown keys are refused with the nearest known one, or kept") {
  ConfigReader r(R"({"d_stat": 8, "mixer": {"dt_min": 1}})", "config.json");
  int64_t state = 16;
  r.integer("d_state", state, 1, 1024);
  ConfigReader m = r.object("mixer");
  CHECK(message_of([&] { r.refuse_unknown(); }) ==
        "[config.json] every key must be one that is known; got 'd_stat'. Try: 'd_state'");
  double dt = 0;
  m.number("dt_min", dt, 0, 1);
  r.integer("d_stat", state, 1, 1024);
  CHECK_NOTHROW(r.refuse_unknown());
  // Asking again for the same object does not forget what was asked for.
  r.object("mixer");
  CHECK_NOTHROW(r.refuse_unknown());
}

TEST_CASE("text that is not plain JSON is refused") {
  for (const char* text :
       {"", "[]", "1", "{", "{}x", "{\"a\":1,}", "{\"a\":nan}", "{\"a\":Infinity}", "{\"a\":1e999}", "{'a':1}",
        "{\"a\":18446744073709551615}", "{\"a\":9223372036854775808}", "{\"a\":-9223372036854775809}",
        "{\"a\":99999999999999999999999}", "{\"a\":\"\xff\"}", "{\"a\":01}", "// c\n{}"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_message(text).empty());
  }
  CHECK(parse_message(R"({"a":1,"a":2})").find("'a' twice") != std::string::npos);
  CHECK(parse_message(R"({"x":{"a":1,"\u0061":2}})").find("'a' twice") != std::string::npos);
  CHECK(parse_message(std::string("{}\0{}", 5)).find("zero byte") != std::string::npos);
  CHECK(parse_message("{}").empty());
  CHECK(parse_message(R"({"a":-9223372036854775808})").empty());
  CHECK(parse_message(R"({"a":{"a":1},"b":{"a":1}})").empty());
}

TEST_CASE("depth and size are limited, many keys take linear time") {
  const auto nested = [](int depth) {
    std::string text;
    for (int i = 0; i < depth; i++) text += "{\"a\":";
    text += "1";
    return text + std::string(static_cast<size_t>(depth), '}');
  };
  CHECK(parse_message(nested(64)).empty());
  CHECK(parse_message(nested(65)).find("at most 64 levels") != std::string::npos);
  CHECK_FALSE(parse_message("{\"a\":" + std::string(1000000, '[')).empty());
  CHECK(parse_message("{\"a\":\"" + std::string(1 << 20, 'x') + "\"}").find("at most 1048576") != std::string::npos);
  std::string many = "{";
  for (int i = 0; i < 80000; i++) many += (i ? ",\"" : "\"") + std::to_string(i) + "\":1";
  CHECK(parse_message(many + "}").empty());
}

TEST_CASE("every truncated and every flipped config is an error or a config, never a crash") {
  const std::string text = kSample;
  for (size_t n = 0; n + 1 < text.size(); n++) CHECK_FALSE(parse_message(text.substr(0, n)).empty());
  for (size_t i = 0; i < text.size(); i++) {
    for (const int mask : {1, 2, 4, 8, 16, 32, 64, 128, 255}) {
      std::string bad = text;
      bad[i] = static_cast<char>(bad[i] ^ mask);
      message_of([&] {
        ConfigReader r(bad, "bad");
        int64_t v = 0;
        std::string s;
        r.integer("d_state", v, 1, 1024);
        r.choice("pool", s, {"cls", "mean"});
        r.object("mixer").refuse_unknown();
        r.refuse_unknown();
      });
    }
  }
}

TEST_CASE("a config is written in the order of the calls, with doubles that read back exactly") {
  ConfigWriter w, mixer;
  mixer.set("dt_min", 0.1);
  w.set("model_type", "vim");
  w.set("d_state", 16);
  w.set("bias", true);
  w.set("patch", std::vector<int64_t>{4, 4});
  w.set("mixer", mixer);
  CHECK(w.text() ==
        "{\n  \"model_type\": \"vim\",\n  \"d_state\": 16,\n  \"bias\": true,\n  \"patch\": [\n    4,\n    4\n  ],\n"
        "  \"mixer\": {\n    \"dt_min\": 0.1\n  }\n}\n");
  for (const double v : {1.0 / 3, 5e-324, 1.7976931348623157e308, -0.0, 1e22}) {
    ConfigWriter one;
    one.set("v", v);
    double back = 7;
    const double most = std::numeric_limits<double>::max();
    ConfigReader(one.text(), "t").number("v", back, -most, most);
    CHECK(back == v);
  }
  CHECK_THROWS_AS(w.set("v", std::numeric_limits<double>::quiet_NaN()), Error);
  CHECK_THROWS_AS(w.set("v", "\xff"), Error);
}

TEST_CASE("unknown keys survive reading and writing") {
  ConfigReader r(kSample, "config.json");
  int64_t state = 0;
  r.integer("d_state", state, 1, 1024);
  ConfigWriter w;
  w.set("d_state", 32);
  w.keep_unknown(r);
  ConfigReader again(w.text(), "again");
  again.integer("d_state", state, 1, 1024);
  CHECK(state == 32);
  CHECK(again.has("extra"));
  CHECK(again.object("mixer").has("odd"));
  CHECK(w.text().find("\"keep\": [\n      1\n    ]") != std::string::npos);
}
