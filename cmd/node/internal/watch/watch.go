// Package watch notices that files have changed: by looking at what is in them, at an
// interval. Notifications of the kernel would be quicker, but they miss what matters
// most: mounted secrets of Kubernetes, where the name stays and a symbolic link
// somewhere above it is replaced, and network file systems.
package watch

import (
	"crypto/sha256"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"
)

// Watcher looks at groups of files. Its methods are for any goroutine.
type Watcher struct {
	interval time.Duration
	trigger  chan struct{}
	stop     chan struct{}
	done     chan struct{}
	closing  sync.Once

	mu     sync.Mutex
	groups []*group // mu; the groups themselves belong to the goroutine once they are here
}

// group is files that are read together, such as a certificate and its key.
type group struct {
	files   []string
	changed func()
	// told is what was in the files when changed was last called, and last at the last
	// look.
	told, last []state
}

// New starts a watcher that looks at an interval. Close ends it.
func New(interval time.Duration) *Watcher {
	w := &Watcher{interval: interval, trigger: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w
}

// Add watches files that belong together. changed is called from the watcher's
// goroutine when what is in one of them has changed, that it is there at all included,
// and has then stayed the same for one interval, so that a file is not read half
// written and a key is not met before its certificate. It should read the files, keep
// what it had if they are no good, and say so. Call Add before you first read the files
// yourself: then no change is missed.
func (w *Watcher) Add(changed func(), files ...string) {
	now := look(files, nil)
	g := &group{files: slices.Clone(files), changed: changed, told: now, last: now}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.groups = append(w.groups, g)
}

// Trigger makes the watcher call every changed function soon, whatever is in the files.
func (w *Watcher) Trigger() {
	select {
	case w.trigger <- struct{}{}:
	default: // it is going to, anyhow
	}
}

// Close ends the watcher. When it returns no changed function runs any more, so none
// may call it.
func (w *Watcher) Close() {
	w.closing.Do(func() { close(w.stop) })
	<-w.done
}

func (w *Watcher) run() {
	defer close(w.done)
	t := time.NewTicker(w.interval)
	defer t.Stop()
	for {
		forced := false
		select {
		case <-w.stop:
			return
		case <-w.trigger:
			forced = true
		case <-t.C:
		}
		w.mu.Lock()
		groups := slices.Clone(w.groups)
		w.mu.Unlock()
		for _, g := range groups {
			g.look(forced)
		}
	}
}

func (g *group) look(forced bool) {
	now := look(g.files, g.last)
	settled := slices.EqualFunc(now, g.last, state.same)
	g.last = now
	if forced || settled && !slices.EqualFunc(now, g.told, state.same) {
		g.told = now
		g.changed()
	}
}

// state is what is known of a file.
type state struct {
	info fs.FileInfo // nil: it cannot be read
	sum  [sha256.Size]byte
	at   time.Time // when it was read
}

func (s state) same(other state) bool {
	return (s.info == nil) == (other.info == nil) && s.sum == other.sum
}

// racy is the time for which a file may change without its modification time showing
// it: file systems count in steps, of up to two seconds.
const racy = 3 * time.Second

// unchanged says whether info shows that the file is as it was, so that it need not be
// read again.
func (s state) unchanged(info fs.FileInfo) bool {
	return s.info != nil && os.SameFile(s.info, info) && s.info.Size() == info.Size() &&
		s.info.ModTime().Equal(info.ModTime()) && s.at.Sub(info.ModTime()) > racy
}

// look reads files, but those that are as they were before.
func look(files []string, before []state) []state {
	now := make([]state, len(files))
	for i, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			continue
		}
		if before != nil && before[i].unchanged(info) {
			now[i] = before[i]
			continue
		}
		at := time.Now()
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		now[i] = state{info: info, sum: sha256.Sum256(data), at: at}
	}
	return now
}
