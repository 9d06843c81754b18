import Foundation

/// All that was said in a session.
public struct Transcript: Sendable, RandomAccessCollection {
  private var entries: [Entry]

  public init(entries: some Sequence<Entry> = []) { self.entries = Array(entries) }
  public var startIndex: Int { entries.startIndex }
  public var endIndex: Int { entries.endIndex }
  public subscript(index: Int) -> Entry { entries[index] }

  public enum Entry: Sendable {
    case instructions(Instructions)
    case prompt(Prompt)
    case response(Response)
    case reasoning(Reasoning)
    case toolOutput(ToolOutput)
  }

  public enum Segment: Sendable {
    case text(TextSegment)
    case structure(StructuredSegment)
    case attachment(AttachmentSegment)
  }

  public struct TextSegment: Sendable {
    public var content: String
    public init(content: String) { self.content = content }
  }

  public struct StructuredSegment: Sendable {
    public var content: GeneratedContent
    public init(content: GeneratedContent) { self.content = content }
  }

  public struct AttachmentSegment: Sendable {
    public init() {}
  }

  public struct Instructions: Sendable {
    public var segments: [Segment]
    public init(segments: [Segment]) { self.segments = segments }
  }

  public struct Prompt: Sendable {
    public var segments: [Segment]
    public init(segments: [Segment]) { self.segments = segments }
  }

  public struct Response: Sendable {
    public var segments: [Segment]
    public init(segments: [Segment]) { self.segments = segments }
  }

  public struct Reasoning: Sendable {
    public init() {}
  }

  public struct ToolOutput: Sendable {
    public init() {}
  }
}

/// Content of a shape that was asked for.
public struct GeneratedContent: Sendable {
  public let jsonString: String
  public init(json: String) { jsonString = json }
}

/// What metadata can have.
public protocol ConvertibleToGeneratedContent: Sendable {}
extension String: ConvertibleToGeneratedContent {}
