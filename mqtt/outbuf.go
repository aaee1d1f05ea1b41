package mqtt

import (
	"net"
	"sync"
)

const (
	// chunkSize is the size of the pooled pieces into which packets are encoded.
	chunkSize = 4096
	// shareFrom is the number of bytes from which a part of a packet that is the
	// same for many receivers is referred to instead of copied.
	shareFrom = 1024
)

// batch is what a flusher writes at once: packets in wire form, in pooled chunks
// and in pieces that many batches share.
type batch struct {
	pieces net.Buffers
	chunks []*[chunkSize]byte // to be pooled again once written
	tail   []byte             // the last piece, still growing; not in pieces
	size   int
}

var (
	chunkPool = sync.Pool{New: func() any { return new([chunkSize]byte) }}
	batchPool = sync.Pool{New: func() any { return &batch{} }}
)

// room returns the tail with space for n more bytes; the caller appends to it and
// hands it back to grown.
func (b *batch) room(n int) []byte {
	if cap(b.tail)-len(b.tail) >= n {
		return b.tail
	}
	b.cut()
	if n > chunkSize {
		return make([]byte, 0, n)
	}
	chunk := chunkPool.Get().(*[chunkSize]byte)
	b.chunks = append(b.chunks, chunk)
	return chunk[:0]
}

// grown takes back the tail with what was appended; it returns how many bytes.
func (b *batch) grown(tail []byte) int {
	n := len(tail) - len(b.tail)
	b.tail = tail
	b.size += n
	return n
}

// cut ends the tail.
func (b *batch) cut() {
	if len(b.tail) > 0 {
		b.pieces = append(b.pieces, b.tail)
	}
	b.tail = nil
}

// share appends bytes that nobody changes any more.
func (b *batch) share(p []byte) {
	rest := b.tail[len(b.tail):] // the chunk goes on after the shared piece
	b.cut()
	b.pieces = append(b.pieces, p)
	b.size += len(p)
	b.tail = rest
}

// release gives everything back to the pools.
func (b *batch) release() {
	for i, c := range b.chunks {
		chunkPool.Put(c)
		b.chunks[i] = nil
	}
	const keep = 64
	if cap(b.chunks) > keep || cap(b.pieces) > keep {
		return
	}
	clear(b.pieces[:cap(b.pieces)])
	*b = batch{pieces: b.pieces[:0], chunks: b.chunks[:0]}
	batchPool.Put(b)
}
