// A bundle (docs/bundle.md) once all that it says has been looked at, and its programs as MLX's graphs.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json.h"
#include "mlx/mlx.h"

namespace gemma4 {

namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;
using Variables = std::vector<std::pair<std::string, int64_t>>;
struct Operation;

mx::Dtype dtype_of(std::string_view name);    // a type of numbers by its name in a program
std::string sha256(std::string_view content);  // hexadecimal

// What steps make that depend on weights and constants alone, once for all programs.
struct Folded {
  std::map<std::string, size_t> places;  // by operation, arguments and numbers
  Arrays arrays;
};

struct Program {
  struct Input { std::string name; mx::Dtype dtype; Json::List shape; };
  struct Use {
    const Operation* operation;
    size_t inputs, outputs;
    Json::Object arguments;
    Arrays made(const Arrays& taken, const Variables& values) const;
  };
  struct Step { const Use* use; std::vector<size_t> taken; ptrdiff_t folded = -1; };  // its place among these

  std::string name;
  std::vector<std::string> variables;
  std::vector<Input> inputs;
  std::vector<Use> uses;
  std::vector<Step> steps;
  std::vector<std::pair<std::string, size_t>> outputs;

  // Throws an Error unless the JSON is a program for so many weights and constants whose operations are known.
  Program(const Json& content, size_t weights, size_t constants);
  // Makes once what is small, or no more than a view; marks those of `fixed` that other steps still take.
  void fold(const Arrays& fixed, Folded& folded, std::vector<bool>& needed);
  // The outputs in their order, not evaluated; `given` are the inputs in theirs, `fixed` weights and constants.
  Arrays run(const Arrays& fixed, const Folded& folded, const Arrays& given, const Variables& values) const;

 private:
  template <class Action>
  Arrays attempt(Action action) const;
};

struct Bundle {
  struct Layer { bool full; int heads, width; };
  struct Reading { int least, most; Program program; };

  std::string manifest;  // its text
  int vocabulary, context, hidden, drafts, most_top_k;
  mx::Dtype hidden_dtype = mx::float32, dtype = mx::float32;  // of the hidden state, of keys and values
  int window, slack, ring, growth, end_step, least_end, bucket, bucket_growth_share;
  std::vector<Layer> layers;
  std::vector<int> stops;
  std::vector<Program> greedy, sampled;
  std::vector<Reading> reads;
  Arrays fixed;   // weights, then constants; evaluated
  Folded folded;  // too

  // Throws an Error, in one sentence, unless the folder has a whole bundle. To be called where MLX is used.
  explicit Bundle(const std::string& folder);

 private:
  void read(const Json& content, const std::filesystem::path& root);
  void settle(size_t weights);
};

}  // namespace gemma4
