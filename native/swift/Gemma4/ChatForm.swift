/// How a checkpoint's chat template writes plain conversations: a manifest's `text.chat`. docs/bundle.md has the rules.
///
/// Special tokens are spelled in these texts.
public struct ChatForm: Decodable, Sendable, Equatable {
  /// What stands before and behind a turn's messages.
  public struct Turn: Decodable, Sendable, Equatable {
    public let open: String
    public let close: String
  }

  /// How thoughts are asked for.
  public struct Thinking: Decodable, Sendable, Equatable {
    /// What asks for them, at the beginning of the first turn, which is the system's.
    public let ask: String
    /// What stands in the place of the prompt.
    public let prompt: String
  }

  /// Before all turns.
  public let begin: String
  /// Nil where the template takes no system messages.
  public let system: Turn?
  public let user: Turn
  public let model: Turn
  /// Behind all turns, for the model to write on.
  public let prompt: String
  /// Nil where the template knows no thoughts.
  public let thinking: Thinking?
  /// Whether messages lose white space at both ends.
  public let trimmed: Bool
  /// Whether the model's messages that follow one another are one turn.
  public let joined: Bool
  /// What opens and closes thoughts, which the model's messages lose; nil where they keep them.
  public let thoughts: Turn?
  /// Control tokens that the tokenizer does not call special.
  public let control: [String]
}
