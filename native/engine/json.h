// JSON as bundles have it. Nothing is trusted: what is not as expected is an Error that says so.
#pragma once

#include <charconv>
#include <cstdint>
#include <filesystem>
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
    if (const auto found = entries.find(name); found != entries.end()) return found->second;
    throw Error("there is no " + std::string(name));
  }
  template <class T>
  const T& at(std::string_view name) const { return at(name).as<T>(name); }
  // An item of a list.
  const Json& at(size_t place) const {
    const auto& items = as<List>("a list");
    if (place < items.size()) return items[place];
    throw Error("a list has only " + std::to_string(items.size()) + " items");
  }

  int64_t whole(std::string_view what, int64_t least = 0, int64_t most = INT32_MAX) const {
    const int64_t found = as<int64_t>(what);
    if (found < least || found > most) throw Error(std::string(what) + " is " + std::to_string(found));
    return found;
  }
};

class JsonReader {
 public:
  static Json read(std::string_view text) {
    JsonReader reader(text);
    Json found = reader.value(32);
    reader.takes("");
    reader.expect(reader.left_.empty());
    return found;
  }

 private:
  std::string_view left_;
  size_t size_;

  explicit JsonReader(std::string_view text) : left_(text), size_(text.size()) {}
  void expect(bool fulfilled) const {
    if (!fulfilled) throw Error("it is no JSON at byte " + std::to_string(size_ - left_.size()));
  }
  bool takes(std::string_view word) {  // behind spaces
    left_.remove_prefix(std::min(left_.find_first_not_of(" \t\r\n"), left_.size()));
    const bool found = left_.starts_with(word);
    if (found) left_.remove_prefix(word.size());
    return found;
  }

  Json value(int depth) {
    expect(depth > 0);
    const auto entry = [&](Json::Object& into) {
      expect(takes("\""));
      std::string name = string();
      expect(takes(":"));
      expect(into.try_emplace(std::move(name), value(depth - 1)).second);
    };
    if (takes("{")) return all<Json::Object>("}", entry);
    if (takes("[")) return all<Json::List>("]", [&](Json::List& into) { into.push_back(value(depth - 1)); });
    if (takes("\"")) return {string()};
    if (takes("null")) return {nullptr};
    if (takes("true")) return {true};
    if (takes("false")) return {false};
    return number();
  }

  template <class Items, class Add>
  Json all(std::string_view end, Add add) {
    Items items;
    if (takes(end)) return {std::move(items)};
    do add(items); while (takes(","));
    expect(takes(end));
    return {std::move(items)};
  }

  Json number() {
    const std::string digits(left_.substr(0, left_.find_first_not_of("+-.0123456789eE")));
    const char* last = digits.data() + digits.size();
    left_.remove_prefix(digits.size());
    int64_t whole = 0;
    const auto [end, error] = std::from_chars(digits.data(), last, whole);
    if (error == std::errc() && end == last) return {whole};
    std::istringstream stream(digits);  // not every library has from_chars of a double
    stream.imbue(std::locale::classic());
    double real = 0;
    expect(stream >> real && stream.eof());
    return {real};
  }

  std::string string() {  // behind its first quotation mark
    for (std::string found;;) {
      const size_t plain = left_.find_first_of("\"\\");
      expect(plain != left_.npos);
      const char mark = left_[plain];
      found += left_.substr(0, plain);
      left_.remove_prefix(plain + 1);
      if (mark == '"') return found;
      found += escaped();
    }
  }

  std::string escaped() {  // behind a stroke
    static constexpr std::string_view kNames = "\"\\/bfnrt", kMeant = "\"\\/\b\f\n\r\t";
    expect(!left_.empty());
    if (const size_t place = kNames.find(left_[0]); place != kNames.npos) {
      left_.remove_prefix(1);
      return std::string(1, kMeant[place]);
    }
    std::u16string units(1, unit());
    if (units[0] >= 0xD800 && units[0] < 0xDC00 && takes("\\")) units += unit();
    return std::filesystem::path(units).string();  // as UTF-8
  }

  char16_t unit() {  // of UTF-16: u and four digits
    uint16_t code = 0;
    const char* first = left_.data() + 1;
    expect(left_.size() > 4 && left_[0] == 'u' && std::from_chars(first, first + 4, code, 16).ptr == first + 4);
    left_.remove_prefix(5);
    return code;
  }
};

}  // namespace gemma4
