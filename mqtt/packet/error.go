package packet

import "fmt"

// Error says why a packet was refused.
type Error struct {
	// Code is the reason code with which MQTT 5 answers, in CONNACK or DISCONNECT.
	Code ReasonCode
	// Clause is the normative statement that was broken, as "MQTT-3.3.1-4", or the
	// section, as "3.3.2.1", where the rule has no number. It is taken from the
	// version of the connection (from 3.1.1 for 3.1).
	Clause string
	// Detail is what was wrong, in plain English.
	Detail string
	// Version is set for errors in CONNECT: the version in which the client would
	// understand a CONNACK, or 0 when there is no telling and the connection is
	// just closed. An unknown protocol level gives V5 (answer 0x84) if the packet is laid
	// out as in MQTT 5, else V311 (answer 0x01) [MQTT-3.1.2-2].
	Version byte
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("packet: %s: %s [%s]", e.Code, e.Detail, e.Clause)
}

// by picks the clause of the connection's version.
func by(version byte, v5, v311 string) string {
	if version >= V5 {
		return v5
	}
	return v311
}
