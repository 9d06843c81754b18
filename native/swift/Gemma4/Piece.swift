/// What a stream gives: a part of the prompt was read, or a round has made some tokens.
///
/// Tokens of one channel are one piece. A round that goes from a thought to the answer gives two.
public struct Piece: Sendable, Equatable {
  /// What the tokens say. Bytes of an unfinished character come with the token that ends it; markers say nothing.
  public var text = ""
  /// Whether this is a thought, or the answer.
  public var channel: Channel = .answer
  /// All ids of the round in this channel, those of markers and the one that stops the text included.
  public var tokens: [Token] = []
  /// How far the prompt is read.
  public var progress = Progress(read: 0, toRead: 0)
  /// Why the text ends, in its last piece.
  public var finish: Finish?
  /// What it took, in the last piece.
  public var statistics: Statistics?

  /// A token, and who it is from.
  public struct Token: Sendable, Equatable {
    public let id: Int32
    /// 0 is the target's own, n the n-th draft of its round.
    public let draft: Int
    /// What it adds to the piece's text.
    public var text: String

    public init(id: Int32, draft: Int, text: String = "") {
      self.id = id
      self.draft = draft
      self.text = text
    }
  }

  /// Tokens of a prompt whose keys are there, and how many these are to be: all but the last, which is for the first
  /// round.
  public struct Progress: Sendable, Equatable {
    public let read: Int
    public let toRead: Int

    public init(read: Int, toRead: Int) {
      self.read = read
      self.toRead = toRead
    }
  }

  /// Why a text ends: by a stop token, at so many tokens or the model's context, or since nobody wants it any more.
  public enum Finish: String, Sendable {
    case stop, length, cancelled
  }
}

/// What a text took.
public struct Statistics: Sendable, Equatable {
  /// Of the prompt, and how many of these were known from earlier turns.
  public var promptTokens = 0
  public var keptTokens = 0
  /// Of the text, in so many rounds.
  public var tokens = 0
  public var rounds = 0
  /// Drafts of all rounds, and those among the text's tokens.
  public var drafted = 0
  public var accepted = 0
  /// From the question to the first token: weights that were not in memory, and the prompt's reading, are in it.
  public var timeToFirstToken: Duration = .zero
  /// From the first token to the last.
  public var duration: Duration = .zero

  /// Of the tokens behind the first round's.
  public var tokensPerSecond: Double {
    let seconds = Double(duration.components.seconds) + Double(duration.components.attoseconds) * 1e-18
    return seconds > 0 ? Double(tokens - 1) / seconds : 0
  }

  /// 1 without drafts that were accepted.
  public var tokensPerRound: Double {
    rounds > 0 ? Double(tokens) / Double(rounds) : 0
  }
}
