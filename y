listeners:
  - {addr: "127.0.0.1:41883"}
  - {type: tls, addr: "127.0.0.1:48883", cert: c, key: k}
  - {type: unix, addr: m.sock}
