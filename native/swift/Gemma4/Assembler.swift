/// Makes pieces of what rounds give: ids to text, by channels.
struct Assembler: Sendable {
  private let stops: Set<Int32>
  private var parser: ChannelParser
  private var channel = Channel.answer
  private var progress = Piece.Progress(read: 0, toRead: 0)

  /// - Parameter prompt: if it has opened a thought and not closed it, the text begins inside of it.
  init(_ manifest: Manifest, _ tokenizer: Tokenizer, behind prompt: [Int32] = []) {
    stops = Set(manifest.text.stops)
    parser = ChannelParser(manifest, tokenizer, behind: prompt)
  }

  /// A piece in which nothing is said.
  var empty: Piece {
    Piece(channel: channel, progress: progress)
  }

  /// One piece at least; the last has the reason for the end.
  mutating func add(_ made: EnginePiece) -> [Piece] {
    progress = made.progress
    var pieces = [empty]
    for (place, token) in made.tokens.enumerated() {
      var said = stops.contains(token.id) ? [] : parser.add(token.id)
      if made.finish != nil, place == made.tokens.count - 1 { said += parser.finish() }
      for text in said { add(text, to: &pieces) }
      let own = said.filter { $0.channel == channel }.map(\.text).joined()
      pieces[pieces.count - 1].tokens.append(Piece.Token(id: token.id, draft: token.draft, text: own))
    }
    pieces[pieces.count - 1].finish = made.finish
    return pieces
  }

  private mutating func add(_ text: ChannelText, to pieces: inout [Piece]) {
    if text.channel != channel {
      channel = text.channel
      if pieces[pieces.count - 1].text.isEmpty {
        pieces[pieces.count - 1].channel = channel
      } else {
        pieces.append(empty)
      }
    }
    pieces[pieces.count - 1].text += text.text
  }
}
