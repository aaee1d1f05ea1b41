// Package mtls secures connections by mutual TLS with certificates that are read
// from files and replaced while connections are open.
//
// Between nodes (Credentials) both sides show a certificate of an authority in the CA
// file. It must name the node: as a DNS name of its subject alternative names, or as
// its common name, letter by letter; one certificate may name several nodes. Who
// connects checks that the node it meant answers; who is connected to checks, at each
// stream and call, that the node which the caller claims to be is named. What a check
// refuses is logged and counted by reason. A node that has passed is trusted: the
// checks keep strangers out, they do not contain a member that lies.
//
// Connections go on when certificates are replaced. Those whose other side no longer
// verifies, as after an authority was taken out of the CA file, are closed.
package mtls
