package fsm

// queue is a ring of messages that wait. The zero value is empty.
type queue struct {
	buf  []*queued // its length is 0 or a power of two
	head int
	n    int
}

func (q *queue) at(i int) *queued { return q.buf[(q.head+i)&(len(q.buf)-1)] }

func (q *queue) push(x *queued) {
	if q.n == len(q.buf) {
		q.resize(max(4, 2*q.n))
	}
	q.buf[(q.head+q.n)&(len(q.buf)-1)] = x
	q.n++
}

func (q *queue) pop() *queued {
	x := q.buf[q.head]
	q.buf[q.head] = nil
	q.head = (q.head + 1) & (len(q.buf) - 1)
	q.n--
	switch {
	case q.n == 0 && len(q.buf) > 64:
		*q = queue{}
	case len(q.buf) > 64 && q.n < len(q.buf)/8:
		q.resize(len(q.buf) / 4) // a long queue that was worked off gives its room back
	}
	return x
}

func (q *queue) resize(size int) {
	buf := make([]*queued, size)
	for i := range q.n {
		buf[i] = q.at(i)
	}
	q.buf, q.head = buf, 0
}

func (q *queue) clone() queue {
	c := queue{n: q.n}
	if q.n > 0 {
		c.buf = append([]*queued(nil), q.buf...)
		c.head = q.head
	}
	return c
}
