package client

// lock is a mutex that may be held while writing to a connection. A goroutine that waits
// for it is durably blocked in the sense of testing/synctest, one that waits for a
// sync.Mutex is not and would stop the fake clock.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

func (l lock) Lock()   { l <- struct{}{} }
func (l lock) Unlock() { <-l }
