package control

import (
	"io"
	"maps"
	"sync"

	"github.com/hashicorp/raft"
)

// disk is what a node keeps. A killed process goes on writing to the disk it
// had; its successor gets the copy that was taken at the kill.
type disk struct {
	mu          sync.Mutex
	incarnation uint64
	logs        map[uint64]raft.Log
	low, high   uint64
	kv          map[string][]byte
	ints        map[string]uint64
	meta        map[string][]byte
	snaps       *raft.InmemSnapshotStore
}

func newDisk(incarnation uint64) *disk {
	return &disk{
		incarnation: incarnation, logs: make(map[uint64]raft.Log), kv: make(map[string][]byte),
		ints: make(map[string]uint64), meta: make(map[string][]byte), snaps: raft.NewInmemSnapshotStore(),
	}
}

func (d *disk) copy() *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &disk{
		incarnation: d.incarnation, logs: maps.Clone(d.logs), low: d.low, high: d.high,
		kv: maps.Clone(d.kv), ints: maps.Clone(d.ints), meta: maps.Clone(d.meta), snaps: raft.NewInmemSnapshotStore(),
	}
	metas, _ := d.snaps.List()
	for _, m := range metas {
		_, r, err := d.snaps.Open(m.ID)
		if err != nil {
			panic(err)
		}
		sink, err := c.snaps.Create(m.Version, m.Index, m.Term, m.Configuration, m.ConfigurationIndex, &port{})
		if err != nil {
			panic(err)
		}
		if _, err := io.Copy(sink, r); err != nil {
			panic(err)
		}
		sink.Close()
	}
	return c
}

func (d *disk) Meta(key string) ([]byte, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.meta[key]
	return b, ok
}

func (d *disk) SetMeta(key string, value []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.meta[key] = value
	return nil
}

func (d *disk) FirstIndex() (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.low, nil
}

func (d *disk) LastIndex() (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.high, nil
}

func (d *disk) GetLog(i uint64, l *raft.Log) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.logs[i]
	if !ok {
		return raft.ErrLogNotFound
	}
	*l = e
	return nil
}

func (d *disk) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

func (d *disk) StoreLogs(ls []*raft.Log) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range ls {
		d.logs[l.Index] = *l
		if d.low == 0 {
			d.low = l.Index
		}
		d.high = max(d.high, l.Index)
	}
	return nil
}

func (d *disk) DeleteRange(from, to uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := from; i <= to; i++ {
		delete(d.logs, i)
	}
	switch {
	case from <= d.low && to >= d.high:
		d.low, d.high = 0, 0
	case from <= d.low:
		d.low = to + 1
	case to >= d.high:
		d.high = from - 1
	}
	return nil
}

func (d *disk) Set(k, v []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kv[string(k)] = v
	return nil
}

func (d *disk) Get(k []byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kv[string(k)], nil
}

func (d *disk) SetUint64(k []byte, v uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ints[string(k)] = v
	return nil
}

func (d *disk) GetUint64(k []byte) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ints[string(k)], nil
}
