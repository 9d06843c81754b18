// A bundle (docs/bundle.md) once all that it says has been looked at, and its programs as MLX's graphs.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "json.h"
#include "mlx/mlx.h"

namespace gemma4 {

namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;
using Variables = std::map<std::string, int64_t, std::less<>>;  // values by name; that of "constant" is 1
struct Operation;

mx::Dtype dtype_of(const std::string& name);  // a type of numbers by its name in bundles

// Weights, then constants, then weights that programs take transposed, as all of them do: once.
struct Fixed {
  Arrays arrays;
  std::map<std::pair<size_t, std::vector<int>>, size_t> turned;  // where, by the weight's number and the order of axes
  std::set<size_t> taken;                                        // by any program

  size_t transposed(size_t number, const std::vector<int>& axes);
  void evaluate();  // and lets go of what no program takes
};

struct Program {
  struct Input { std::string name; mx::Dtype dtype; Json::List shape; };
  struct Use { const Operation* operation; size_t inputs, outputs; Json arguments; };
  struct Step { size_t use; std::vector<ptrdiff_t> taken; };  // ~i: the i-th fixed array; others: the program's own

  std::string name;
  std::vector<Input> inputs;
  std::vector<Use> uses;
  std::vector<Step> steps;
  std::vector<std::pair<std::string, ptrdiff_t>> outputs;

  // Throws an Error unless the JSON is a program for so many weights and constants whose operations are known.
  Program(const Json& content, size_t weights, size_t constants, Fixed& fixed);
  // The outputs in their order, not evaluated, logits only if told to; `given` are the inputs in theirs.
  Arrays run(const Arrays& fixed, const Arrays& given, const Variables& variables, bool logits) const;
};

struct Bundle {
  struct Layer { bool full; int heads, width; };
  struct Reading { int most; Program program; };  // of so many tokens at most

  std::string manifest;  // its text
  int vocabulary, context, hidden, drafts, most_top_k;
  mx::Dtype hidden_dtype = mx::float32, dtype = mx::float32;  // of the hidden state, of keys and values
  int window, slack, ring, growth, end_step, least_end, bucket, bucket_growth_share;
  std::vector<Layer> layers;
  std::vector<int> stops;
  std::vector<Program> greedy, sampled;
  std::vector<Reading> reads;
  Fixed fixed;  // evaluated

  // Throws an Error, in one sentence, unless the folder has a whole bundle. To be called where MLX is used.
  explicit Bundle(const std::string& folder);

 private:
  void read(const Json& content, const std::filesystem::path& root);
  void read_layout(const Json& content);
  void read_weights(const Json& content, const std::filesystem::path& root);
};

}  // namespace gemma4
