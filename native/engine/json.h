// JSON as bundles have it: values that say what is wrong with them, and a reader that trusts nothing.
#pragma once

#include <charconv>
#include <cstdint>
#include <limits>
#include <locale>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace gemma4 {

// What a caller is told, in one sentence.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Json {
  using List = std::vector<Json>;
  using Object = std::map<std::string, Json, std::less<>>;
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, List, Object> value;

  template <class T>
  bool is() const { return std::holds_alternative<T>(value); }

  // The value as a T; `what` names it in the error.
  template <class T>
  const T& as(std::string_view what) const {
    if (const T* found = std::get_if<T>(&value)) return *found;
    throw Error(std::string(what) + " is not of the expected kind");
  }
  // An entry of an object.
  const Json& at(std::string_view name) const {
    const auto& entries = as<Object>(name);
    if (auto found = entries.find(name); found != entries.end()) return found->second;
    throw Error("there is no " + std::string(name));
  }
  template <class T>
  const T& at(std::string_view name) const { return at(name).as<T>(name); }

  int64_t whole(std::string_view what, int64_t least = 0, int64_t most = std::numeric_limits<int32_t>::max()) const {
    const int64_t found = as<int64_t>(what);
    if (found < least || found > most) throw Error(std::string(what) + " is " + std::to_string(found));
    return found;
  }
};

class JsonReader {
 public:
  static Json read(std::string_view text) {
    JsonReader reader(text);
    Json found = reader.one(0);
    if (reader.next() != '\0' || reader.at_ != text.size()) throw reader.wrong();
    return found;
  }

 private:
  static constexpr int kDeepest = 32;
  std::string_view text_;
  size_t at_ = 0;

  explicit JsonReader(std::string_view text) : text_(text) {}
  Error wrong() const { return Error("it is no JSON at byte " + std::to_string(at_)); }
  char here() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  char next() {  // the next character that is no space; not taken
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) ++at_;
    return here();
  }
  bool takes(char one) { return next() == one && (++at_, true); }
  bool takes(std::string_view word) {
    return text_.substr(at_, word.size()) == word && (at_ += word.size(), true);
  }

  Json one(int depth) {
    if (depth > kDeepest) throw wrong();
    if (takes('{')) return object(depth);
    if (takes('[')) return list(depth);
    if (takes('"')) return {string()};
    if (takes("null")) return {nullptr};
    if (takes("true")) return {true};
    if (takes("false")) return {false};
    return number();
  }

  Json object(int depth) {
    Json::Object entries;
    if (takes('}')) return {std::move(entries)};
    do {
      if (!takes('"')) throw wrong();
      std::string name = string();
      if (!takes(':') || !entries.try_emplace(std::move(name), one(depth + 1)).second) throw wrong();
    } while (takes(','));
    if (!takes('}')) throw wrong();
    return {std::move(entries)};
  }

  Json list(int depth) {
    Json::List items;
    if (takes(']')) return {std::move(items)};
    do items.push_back(one(depth + 1)); while (takes(','));
    if (!takes(']')) throw wrong();
    return {std::move(items)};
  }

  Json number() {
    const size_t begin = at_;
    while (at_ < text_.size() && std::string_view("+-.0123456789eE").find(here()) != std::string_view::npos) ++at_;
    const char *first = text_.data() + begin, *last = text_.data() + at_;
    int64_t whole = 0;
    if (auto [end, error] = std::from_chars(first, last, whole); error == std::errc() && end == last) return {whole};
    std::istringstream stream(std::string(first, last));  // not every library has from_chars of a double
    stream.imbue(std::locale::classic());
    double real = 0;
    if (!(stream >> real) || stream.peek() != std::istringstream::traits_type::eof()) throw wrong();
    return {real};
  }

  std::string string() {
    std::string found;
    for (; here() != '"'; ++at_) {
      if (static_cast<unsigned char>(here()) < 0x20) throw wrong();
      if (here() != '\\') { found += here(); continue; }
      ++at_;
      static constexpr std::string_view kShort = "\"\\/bfnrt", kMeans = "\"\\/\b\f\n\r\t";
      if (here() == 'u') append(found, unicode());
      else if (auto place = kShort.find(here()); here() && place != std::string_view::npos) found += kMeans[place];
      else throw wrong();
    }
    ++at_;
    return found;
  }

  uint32_t hex() {  // of the four digits after a u; stops at the last of them
    uint32_t code = 0;
    const auto digits = text_.substr(at_ + 1, 4);
    const char* last = digits.data() + digits.size();
    if (auto [end, error] = std::from_chars(digits.data(), last, code, 16); digits.size() < 4 || end != last) throw wrong();
    at_ += 4;
    return code;
  }

  uint32_t unicode() {
    const uint32_t high = hex();
    if (high < 0xD800 || high > 0xDFFF) return high;
    ++at_;
    if (high > 0xDBFF || !takes("\\") || here() != 'u') throw wrong();
    const uint32_t low = hex();
    if (low < 0xDC00 || low > 0xDFFF) throw wrong();
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
  }

  static void append(std::string& to, uint32_t code) {  // as UTF-8
    if (code < 0x80) { to += static_cast<char>(code); return; }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    to += static_cast<char>((0xFF00 >> (more + 1) & 0xFF) | code >> (6 * more));
    for (int i = more - 1; i >= 0; --i) to += static_cast<char>(0x80 | (code >> (6 * i) & 0x3F));
  }
};

}  // namespace gemma4
