/// Finds tokens that are taken out of a text before anything else, the leftmost first, of these the longest.
struct TokenizerTrie: Sendable {
  private struct Node: Sendable {
    var byte: UInt8
    var id: Int32 = -1
    var child: Int32 = -1
    var sibling: Int32 = -1
  }

  private var nodes = [Node(byte: 0)]
  private var begins = Array(repeating: false, count: 256)

  /// Adds a token; an empty one is none.
  mutating func add(_ token: some Sequence<UInt8>, as id: Int32) {
    var node: Int32 = 0
    for byte in token {
      if node == 0 { begins[Int(byte)] = true }
      node = child(of: node, byte) ?? append(byte, to: node)
    }
    if node != 0 { nodes[Int(node)].id = id }
  }

  private mutating func append(_ byte: UInt8, to node: Int32) -> Int32 {
    let made = Int32(nodes.count)
    nodes.append(Node(byte: byte, sibling: nodes[Int(node)].child))
    nodes[Int(node)].child = made
    return made
  }

  private func child(of node: Int32, _ byte: UInt8) -> Int32? {
    var child = nodes[Int(node)].child
    while child >= 0 {
      if nodes[Int(child)].byte == byte { return child }
      child = nodes[Int(child)].sibling
    }
    return nil
  }

  /// What begins at a place of a text.
  struct Found {
    /// The longest token, and its length.
    var token: (id: Int32, length: Int)?
    /// Whether the text ends within what may become a token.
    var isUnfinished = false
  }

  func find(in text: UnsafeBufferPointer<UInt8>, at start: Int) -> Found {
    var found = Found()
    guard begins[Int(text[start])] else { return found }
    var node: Int32 = 0
    var place = start
    while place < text.count, let deeper = child(of: node, text[place]) {
      node = deeper
      place += 1
      if nodes[Int(node)].id >= 0 { found.token = (nodes[Int(node)].id, place - start) }
    }
    found.isUnfinished = place == text.count && nodes[Int(node)].child >= 0
    return found
  }

  /// Hands on a text's parts, one after the other: tokens, and the text between them.
  func split(
    _ text: UnsafeBufferPointer<UInt8>, leavingOut isText: (Int32) -> Bool,
    token: (Int32) -> Void, between: (UnsafeBufferPointer<UInt8>) -> Void
  ) {
    var (done, place) = (0, 0)
    while place < text.count {
      guard let (id, length) = find(in: text, at: place).token else {
        place += 1
        continue
      }
      if !isText(id) {
        if done < place { between(UnsafeBufferPointer(rebasing: text[done..<place])) }
        token(id)
        done = place + length
      }
      place += length
    }
    if done < text.count { between(UnsafeBufferPointer(rebasing: text[done...])) }
  }
}
