// Reads the table of cases (a file of JSON) and says where the rule of drafts.h differs from it.
#include <cstdio>
#include <fstream>
#include <iterator>

#include "../engine/drafts.h"
#include "../engine/json.h"

using namespace gemma4;

int main(int, char** words) {
  std::ifstream file(words[1]);
  const Json table = JsonReader::read(std::string(std::istreambuf_iterator<char>(file), {}));
  int number = 0, rounds = 0;
  for (const auto& each : table.at<Json::List>("cases")) {
    AutoDraftLength rule(static_cast<int>(each.at("longest").whole("longest")));
    for (const auto& round : each.at<Json::List>("rounds")) {  // [chosen, drafted, accepted, seconds]
      const auto& parts = round.as<Json::List>("a round");
      if (const int chosen = rule.choose(); chosen != parts[0].whole("chosen")) {
        std::printf("case %d, round %d: %d drafts\n", number, rounds, chosen);
        return 1;
      }
      const Seconds took = parts[3].is<std::nullptr_t>() ? std::nullopt : Seconds(parts[3].as<double>("seconds"));
      rule.observe(static_cast<int>(parts[1].whole("drafted")), static_cast<int>(parts[2].whole("accepted")), took);
      ++rounds;
    }
    ++number;
  }
  std::printf("%d cases, %d rounds\n", number, rounds);
}
