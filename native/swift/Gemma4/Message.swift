/// What one side says in a chat.
public struct Message: Sendable, Codable, Equatable {
  /// Whose message it is.
  public enum Role: String, Sendable, Codable {
    /// Who says how the model is to be.
    case system
    /// Who asks.
    case user
    /// Who answers.
    case model
  }

  public var role: Role
  public var content: String

  public init(_ role: Role, _ content: String) {
    self.role = role
    self.content = content
  }
}
