// Drives a broker with MQTT.js. Arguments: protocol version, and the URLs of nodes of one
// cluster: the subscriber uses the first, the publisher the last. Ends with an error if
// anything is not as MQTT has it.
'use strict'
const assert = require('node:assert')
const fs = require('node:fs')
const mqtt = require('mqtt')

const version = Number(process.argv[2])
const urls = process.argv.slice(3)
const ca = process.env.CA_FILE && fs.readFileSync(process.env.CA_FILE)
const run = `js${version}-${new URL(urls[0]).protocol.slice(0, -1)}`
const five = version === 5

const connect = (name, url, more) => mqtt.connectAsync(url, {
  protocolVersion: version,
  protocolId: version === 3 ? 'MQIsdp' : 'MQTT',
  clientId: `${run}-${name}`,
  reconnectPeriod: 100,
  ca,
  ...more
})

// session keeps messages while it is away.
const session = { clean: false, properties: five ? { sessionExpiryInterval: 3600 } : undefined }

// inbox collects what a client gets; await of(n) waits for n messages.
function inbox (client) {
  const got = []
  let check = () => {}
  client.on('message', (topic, payload, packet) => { got.push({ topic, payload, packet }); check() })
  const of = n => new Promise(resolve => { (check = () => { if (got.length >= n) resolve(got.slice(0, n)) })() })
  return { of, got }
}

async function main () {
  const sub = await connect('sub', urls[0], session)
  const box = inbox(sub)
  await sub.subscribeAsync(`${run}/#`, { qos: 2 })
  const will = { topic: `${run}/will`, payload: Buffer.from('gone'), qos: 1, retain: false }
  const pub = await connect('pub', urls[urls.length - 1], { will })

  // Every QoS, small and large, in order for each QoS.
  const sent = []
  for (let i = 0; i < 30; i++) {
    const payload = i === 10 ? Buffer.alloc(300000, i) : Buffer.from(`m${i}`)
    const properties = five
      ? { userProperties: { k: 'v' }, contentType: 'text', responseTopic: 'r', correlationData: Buffer.from([1, 2]) }
      : undefined
    sent.push({ qos: i % 3, payload })
    await pub.publishAsync(`${run}/t`, payload, { qos: i % 3, properties })
  }
  const received = await box.of(30)
  for (const qos of [0, 1, 2]) {
    const of = list => list.filter(m => (m.qos ?? m.packet.qos) === qos).map(m => m.payload.toString('hex'))
    assert.deepStrictEqual(of(received), of(sent), `QoS ${qos}`)
  }
  if (five) {
    const p = received[0].packet.properties
    assert.deepStrictEqual([p.userProperties.k, p.contentType, p.responseTopic, [...p.correlationData]], ['v', 'text', 'r', [1, 2]])
  }

  // What comes while the subscriber is away waits for it.
  await sub.endAsync()
  for (const qos of [1, 2, 2]) await pub.publishAsync(`${run}/away`, `away${qos}`, { qos })
  const again = mqtt.connect(urls[urls.length - 1], { protocolVersion: version, protocolId: version === 3 ? 'MQIsdp' : 'MQTT', clientId: `${run}-sub`, ca, ...session })
  const later = inbox(again) // before CONNACK: what waited comes right behind it
  const connack = await new Promise((resolve, reject) => { again.on('connect', resolve); again.on('error', reject) })
  if (version > 3) assert.strictEqual(connack.sessionPresent, true, 'session present')
  const kept = await later.of(3)
  assert.deepStrictEqual(kept.map(m => m.payload.toString()).sort(), ['away1', 'away2', 'away2'])

  // A broken connection brings the will.
  pub.options.reconnectPeriod = 0
  pub.stream.destroy()
  const last = (await later.of(4))[3]
  assert.strictEqual(`${last.topic} ${last.payload}`, `${run}/will gone`)
  await again.endAsync()
}

main().then(() => { console.log('ok'); process.exit(0) }, err => { console.error(err); process.exit(1) })
