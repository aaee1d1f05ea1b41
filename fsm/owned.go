package fsm

// Owned visits the sessions whose current owner is this gateway, in no particular
// order. fn must not change the machine.
func (m *Machine) Owned(gateway uint64, fn func(clientID string, epoch uint64)) {
	for _, sl := range m.places {
		if sl.s.owner == gateway {
			fn(sl.s.id, sl.s.epoch)
		}
	}
}
