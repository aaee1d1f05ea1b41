package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/flotilla-mqtt/flotilla/proof/mutant"
)

// The marks file is a row of pairs of 4 KiB blocks: pair 0 is the header, the
// others hold the slots of groups. A write always goes to the older block of
// its pair, so one that is torn by a power cut leaves the newer one whole.
// Blocks are written in place and the first pairs exist from the start: the hot
// path needs no free disk space and no change of file metadata.
//
//	block:  crc32c(4) version(1) pad(3) sequence(8) payload
//	header: magic(8) incarnation(8) slots(4) flags(1) cluster id, node name
//	slot:   used(1) flags(1) pad(2) group(4) incarnation(8) last(8) lastTerm(8)
//	        term(8) voteTerm(8) voteHash(32) snapshot(8) snapshotTerm(8)
const (
	blockSize    = 4096
	blockHeader  = 16
	slotSize     = 128
	slotsPerPair = (blockSize - blockHeader) / slotSize
	firstPairs   = 4 // the header and room for 93 groups
	maxName      = 255
)

var marksMagic = []byte("FLOTMARK")

// mark is how far a group's log, vote and snapshots must reach on this disk.
type mark struct {
	used        bool // false for a place in the file that no group has
	group       uint32
	setAside    bool   // must be wiped before it is used again
	incarnation uint64 // 0: that of the disk
	last        uint64 // last acknowledged index
	lastTerm    uint64
	term        uint64   // Raft's current term
	voteTerm    uint64   // term of the last vote given away
	voteHash    [32]byte // SHA-256 of the candidate that got it
	snap        uint64   // index of the newest durable snapshot
	snapTerm    uint64
}

// empty reports whether nothing was ever acknowledged for the group.
func (m *mark) empty() bool { return m.last == 0 && m.term == 0 && m.voteTerm == 0 && m.snap == 0 }

// markHeader belongs to the whole disk.
type markHeader struct {
	incarnation uint64
	slots       uint32 // how many slots must be readable
	suspectAll  bool   // marks were lost: a group without a slot is set aside
	rebuild     bool   // damage was met while running: check and rebuild at open
	clusterID   string
	nodeName    string
}

// markRound is one group commit: all updates that share one fsync.
type markRound struct {
	done chan struct{}
	err  error // valid after done is closed
}

// blockWrite is one block on its way to the file.
type blockWrite struct {
	off int64
	b   []byte
}

// marks is the open marks file.
type marks struct {
	fs   vfs.FS
	path string
	file vfs.File // written by the syncer only, after open

	mu     sync.Mutex
	header markHeader
	slots  []mark
	byID   map[uint32]int
	seq    []uint64     // per pair: sequence of the newest block
	dirty  []bool       // per pair
	blocks [][]byte     // per pair: a buffer that belongs to the syncer
	writes []blockWrite // belongs to the syncer
	round  *markRound
	err    error // first failure; sticky

	wake chan struct{} // capacity 1
	stop chan struct{}
	gone chan struct{} // closed when the syncer has ended
	// unreadable is set while opening when slots were lost.
	unreadable bool
	torn       int // blocks that failed their check while their twin was good
}

func (m *marks) start() {
	m.wake, m.stop, m.gone = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	m.round = &markRound{done: make(chan struct{})}
	go m.syncer()
}

// close ends the syncer and closes the file. Updates still waiting fail.
func (m *marks) close() error {
	close(m.stop)
	<-m.gone
	return m.file.Close()
}

// createMarks writes a new marks file under a temporary name and renames it, so
// that a disk that fills meanwhile leaves no half a file.
func createMarks(fs vfs.FS, dir, path string, h markHeader) error {
	m := &marks{header: h, seq: make([]uint64, firstPairs)}
	buf := make([]byte, 2*firstPairs*blockSize)
	for pair := range firstPairs {
		m.seq[pair] = 2
		m.encode(pair, buf[2*pair*blockSize:(2*pair+1)*blockSize])
		m.seq[pair] = 1
		m.encode(pair, buf[(2*pair+1)*blockSize:(2*pair+2)*blockSize])
	}
	return writeFileSync(fs, dir, path, buf)
}

// block returns the encoded pair in the syncer's buffer. Called by the syncer,
// with mu held.
func (m *marks) block(pair int) []byte {
	for len(m.blocks) <= pair {
		m.blocks = append(m.blocks, make([]byte, blockSize))
	}
	m.encode(pair, m.blocks[pair])
	return m.blocks[pair]
}

// encode builds the block of a pair from memory, with the pair's sequence.
func (m *marks) encode(pair int, b []byte) {
	clear(b)
	b[4] = formatVersion
	binary.BigEndian.PutUint64(b[8:], m.seq[pair])
	p := b[blockHeader:]
	if pair == 0 {
		h := &m.header
		copy(p, marksMagic)
		binary.BigEndian.PutUint64(p[8:], h.incarnation)
		binary.BigEndian.PutUint32(p[16:], h.slots)
		p[20] = flag(h.suspectAll, 1) | flag(h.rebuild, 2)
		q := p[24:]
		for _, s := range []string{h.clusterID, h.nodeName} {
			q[0] = byte(len(s))
			q = q[1+copy(q[1:], s):]
		}
	} else {
		for i := range slotsPerPair {
			if k := (pair-1)*slotsPerPair + i; k < len(m.slots) {
				encodeSlot(p[i*slotSize:], &m.slots[k])
			}
		}
	}
	binary.BigEndian.PutUint32(b, blockCRC(pair, b))
}

func flag(on bool, bit byte) byte {
	if on {
		return bit
	}
	return 0
}

// blockCRC covers the pair number too, so a misplaced block is noticed.
func blockCRC(pair int, b []byte) uint32 {
	return crc32.Update(keyCRC(0, uint64(pair), b[4]), castagnoli, b[4:])
}

func encodeSlot(p []byte, s *mark) {
	p[0], p[1] = flag(s.used, 1), flag(s.setAside, 1)
	binary.BigEndian.PutUint32(p[4:], s.group)
	for i, v := range []uint64{s.incarnation, s.last, s.lastTerm, s.term, s.voteTerm} {
		binary.BigEndian.PutUint64(p[8+8*i:], v)
	}
	copy(p[48:], s.voteHash[:])
	binary.BigEndian.PutUint64(p[80:], s.snap)
	binary.BigEndian.PutUint64(p[88:], s.snapTerm)
}

func decodeSlot(p []byte) mark {
	u := func(off int) uint64 { return binary.BigEndian.Uint64(p[off:]) }
	s := mark{used: true, group: binary.BigEndian.Uint32(p[4:]), setAside: p[1]&1 != 0, incarnation: u(8), last: u(16), lastTerm: u(24),
		term: u(32), voteTerm: u(40), snap: u(80), snapTerm: u(88)}
	copy(s.voteHash[:], p[48:80])
	return s
}

var zeroBlock [blockSize]byte

var errBlocks = errors.New("both copies of a block fail their check")

// openMarks reads the marks file. It fails with a *DamagedError when the header
// is lost; lost slots set unreadable.
func openMarks(fs vfs.FS, path string) (*marks, error) {
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	m := &marks{fs: fs, path: path, file: f, byID: map[uint32]int{}}
	if err := m.load(); err != nil {
		f.Close()
		return nil, err
	}
	m.start()
	return m, nil
}

func (m *marks) load() error {
	st, err := m.file.Stat()
	if err != nil {
		return err
	}
	buf := make([]byte, st.Size())
	if _, err := m.file.ReadAt(buf, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading %s: %w", m.path, err)
	}
	// A cut file loses whole pairs; zeroes in their place fail the check below.
	if n := 2 * firstPairs * blockSize; len(buf) < n {
		buf = append(buf, make([]byte, n-len(buf))...)
	}
	pairs := (len(buf) + 2*blockSize - 1) / (2 * blockSize)
	buf = append(buf, make([]byte, pairs*2*blockSize-len(buf))...)
	m.seq, m.dirty = make([]uint64, pairs), make([]bool, pairs)
	for pair := range pairs {
		p, err := m.pick(pair, buf[2*pair*blockSize:2*(pair+1)*blockSize])
		switch {
		case errors.Is(err, errBlocks) && pair > 0:
			// A later pair that was never written is not missed.
			m.unreadable = m.unreadable || pair < firstPairs || int(m.header.slots) > (pair-1)*slotsPerPair
			m.grow(pair * slotsPerPair)
		case err != nil && pair == 0:
			return &DamagedError{Path: m.path, What: "marks file", Err: err}
		case err != nil:
			return err
		case pair == 0:
			m.decodeHeader(p)
		default:
			m.decodeSlots(pair, p)
		}
	}
	m.unreadable = m.unreadable || len(m.slots) < int(m.header.slots)
	return nil
}

// grow adds unused slots up to n, to keep the place of those that follow.
func (m *marks) grow(n int) {
	for len(m.slots) < n {
		m.slots = append(m.slots, mark{})
	}
}

func (m *marks) decodeHeader(p []byte) {
	h := &m.header
	h.incarnation = binary.BigEndian.Uint64(p[8:])
	h.slots = binary.BigEndian.Uint32(p[16:])
	h.suspectAll, h.rebuild = p[20]&1 != 0, p[20]&2 != 0
	q := p[24:]
	for _, s := range []*string{&h.clusterID, &h.nodeName} {
		n := int(q[0])
		*s = string(q[1 : 1+n])
		q = q[1+n:]
	}
}

func (m *marks) decodeSlots(pair int, p []byte) {
	for i := range slotsPerPair {
		q := p[i*slotSize : (i+1)*slotSize]
		if q[0] == 0 {
			continue
		}
		k := (pair-1)*slotsPerPair + i
		m.grow(k + 1)
		m.slots[k] = decodeSlot(q)
		m.byID[m.slots[k].group] = k
	}
}

// pick returns the payload of the newer good block of a pair.
func (m *marks) pick(pair int, two []byte) ([]byte, error) {
	var best []byte
	bad := 0
	for i := range 2 {
		b := two[i*blockSize : (i+1)*blockSize]
		if binary.BigEndian.Uint32(b) != blockCRC(pair, b) {
			if !bytes.Equal(b, zeroBlock[:]) {
				bad++ // else: a side that was never written
			}
			continue
		}
		if b[4] != formatVersion {
			return nil, &FormatError{Path: m.path, Version: int(b[4])}
		}
		if pair == 0 && !bytes.Equal(b[blockHeader:blockHeader+8], marksMagic) {
			bad++
			continue
		}
		if seq := binary.BigEndian.Uint64(b[8:]); best == nil || seq > m.seq[pair] {
			best, m.seq[pair] = b[blockHeader:], seq
		}
	}
	if best == nil {
		return nil, errBlocks
	}
	m.torn += bad
	return best, nil
}

// get returns the mark of a group and whether it has one.
func (m *marks) get(group uint32) (mark, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, ok := m.byID[group]
	if !ok {
		return mark{}, false
	}
	return m.slots[i], true
}

// all returns the marks of all groups, in the order of their slots.
func (m *marks) all() []mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]mark, 0, len(m.byID))
	for _, s := range m.slots {
		if s.used {
			out = append(out, s)
		}
	}
	return out
}

func (m *marks) head() markHeader {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.header
}

// ensure gives a group a slot, durably. A group seen for the first time after
// marks were lost starts set aside.
func (m *marks) ensure(group uint32) error {
	m.mu.Lock()
	if _, ok := m.byID[group]; ok {
		m.mu.Unlock()
		return nil
	}
	k := len(m.slots)
	m.slots = append(m.slots, mark{used: true, group: group, setAside: m.header.suspectAll})
	m.byID[group] = k
	pair := 1 + k/slotsPerPair
	for len(m.seq) <= pair {
		m.seq, m.dirty = append(m.seq, 0), append(m.dirty, false)
	}
	if err := m.commit(pair); err != nil {
		return err
	}
	// Counted only after the slot is there: the count says what must be readable.
	return m.updateHeader(func(h *markHeader) { h.slots = max(h.slots, uint32(k+1)) })
}

// update changes a group's mark and returns when it is durable.
func (m *marks) update(group uint32, change func(*mark)) error {
	m.mu.Lock()
	k, ok := m.byID[group]
	if !ok {
		m.mu.Unlock()
		return fmt.Errorf("group %d has no mark", group)
	}
	change(&m.slots[k])
	return m.commit(1 + k/slotsPerPair)
}

func (m *marks) updateHeader(change func(*markHeader)) error {
	m.mu.Lock()
	change(&m.header)
	return m.commit(0)
}

// updateAll changes every group's mark with one fsync per pair.
func (m *marks) updateAll(change func(*mark)) error {
	m.mu.Lock()
	for _, k := range m.byID {
		change(&m.slots[k])
		m.dirty[1+k/slotsPerPair] = true
	}
	return m.commit(0)
}

// commit waits until the pair as it is now in memory is on the disk. Called
// with mu held, which it releases.
func (m *marks) commit(pair int) error {
	if m.err != nil {
		defer m.mu.Unlock()
		return m.err
	}
	m.dirty[pair] = true
	r := m.round
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
	<-r.done
	return r.err
}

// syncer writes what has become dirty since its last fsync, for all groups that
// wait, with one fsync.
func (m *marks) syncer() {
	defer close(m.gone)
	for {
		select {
		case <-m.wake:
			m.flush()
		case <-m.stop:
			m.mu.Lock()
			m.err = errors.Join(m.err, ErrClosed)
			m.round.err = m.err
			close(m.round.done)
			m.mu.Unlock()
			return
		}
	}
}

func (m *marks) flush() {
	m.mu.Lock()
	writes := m.writes[:0]
	for pair, d := range m.dirty {
		if !d {
			continue
		}
		m.dirty[pair] = false
		m.seq[pair]++
		writes = append(writes, blockWrite{off: int64(2*pair+int(m.seq[pair]&1)) * blockSize, b: m.block(pair)})
	}
	m.writes = writes
	r := m.round
	m.round = &markRound{done: make(chan struct{})}
	err := m.err
	m.mu.Unlock()

	for _, w := range writes {
		if err == nil {
			_, err = m.file.WriteAt(w.b, w.off)
		}
	}
	if err == nil && len(writes) > 0 && !mutant.CommitWithoutSync {
		err = m.file.SyncData()
	}
	if err != nil {
		m.mu.Lock()
		// After a failed fsync the kernel may have dropped the pages: a later
		// success would prove nothing.
		if m.err == nil {
			m.err = fmt.Errorf("writing %s: %w", m.path, err)
		}
		r.err = m.err
		m.mu.Unlock()
	}
	close(r.done)
}
