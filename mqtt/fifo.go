package mqtt

// fifo is a queue whose memory follows its length.
type fifo[T any] struct {
	list []T
	head int // list[head:] is queued
}

func (q *fifo[T]) len() int { return len(q.list) - q.head }

func (q *fifo[T]) push(x T) { q.list = append(q.list, x) }

// at returns the i-th element from the oldest.
func (q *fifo[T]) at(i int) T { return q.list[q.head+i] }

// pop takes the oldest element. The queue must not be empty.
func (q *fifo[T]) pop() T {
	var zero T
	x := q.list[q.head]
	q.list[q.head] = zero
	q.head++
	switch n := q.len(); {
	case n == 0:
		q.list, q.head = nil, 0
	case q.head >= 64 && q.head >= n:
		q.list = append(make([]T, 0, 2*n), q.list[q.head:]...)
		q.head = 0
	}
	return x
}
