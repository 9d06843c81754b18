/// Where an executor sends what its model gives. Apple's keeps its events to itself; these can be looked at.
public struct LanguageModelExecutorGenerationChannel: Sendable {
  public struct Usage: Sendable {
    public struct Input: Sendable, Equatable {
      public var totalTokenCount: Int
      public var cachedTokenCount: Int

      public init(totalTokenCount: Int, cachedTokenCount: Int) {
        self.totalTokenCount = totalTokenCount
        self.cachedTokenCount = cachedTokenCount
      }
    }

    public struct Output: Sendable, Equatable {
      public var totalTokenCount: Int
      public var reasoningTokenCount: Int

      public init(totalTokenCount: Int, reasoningTokenCount: Int) {
        self.totalTokenCount = totalTokenCount
        self.reasoningTokenCount = reasoningTokenCount
      }
    }
  }

  public struct Response: Sendable {
    public struct Action: Sendable {
      package let given: Given
      public static func appendText(_ text: String, segmentID: String? = nil, tokenCount: Int) -> Action {
        Action(given: .text(text, tokenCount))
      }
      public static func updateMetadata(_ values: [String: any ConvertibleToGeneratedContent]) -> Action {
        Action(given: .metadata(values.keys.sorted()))
      }
      public static func updateUsage(
        input: Usage.Input, output: Usage.Output, metadata: [String: any ConvertibleToGeneratedContent] = [:]
      ) -> Action {
        Action(given: .usage(input, output))
      }
    }
  }

  public struct Reasoning: Sendable {
    public struct Action: Sendable {
      package let given: Given
      public static func appendText(_ text: String, segmentID: String? = nil, tokenCount: Int) -> Action {
        Action(given: .text(text, tokenCount))
      }
    }
  }

  package enum Given: Sendable {
    case text(String, Int)
    case metadata([String])
    case usage(Usage.Input, Usage.Output)
  }

  public struct Event: Sendable {
    package let isReasoning: Bool
    package let given: Given
    public static func response(entryID: String? = nil, action: Response.Action) -> Event {
      Event(isReasoning: false, given: action.given)
    }
    public static func reasoning(entryID: String? = nil, action: Reasoning.Action) -> Event {
      Event(isReasoning: true, given: action.given)
    }
  }

  private let continuation: AsyncStream<Event>.Continuation
  package let events: AsyncStream<Event>

  public init() { (events, continuation) = AsyncStream.makeStream() }
  public func send(_ event: Event) async { continuation.yield(event) }
  package func close() { continuation.finish() }
}
