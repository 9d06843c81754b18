/// What went wrong, in one sentence.
public struct Gemma4Error: Error, Sendable, Equatable, CustomStringConvertible {
  /// The sentence, without a full stop.
  public let description: String

  public init(_ description: String) {
    self.description = description
  }
}
