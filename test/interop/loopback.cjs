// Cleat: keeps a Node server off the network. SPDX-License-Identifier:
// Apache-2.0
//
//     NODE_OPTIONS=--require=…/loopback.cjs CLEAT_TEST_PORT=FILE node SERVER
//
// Whatever would listen on every address listens on the loopback one, and the
// first port that is listened on is written to FILE, where that is given. This
// happens below `net`, where it is as immediate as it is without: some servers
// ask for their address right after listen(). An idle connection stays open: by
// itself Node closes it after 5 s, and a request of a slow client may come at
// that moment. And a server whose test is gone goes too.
'use strict';
const fs = require('node:fs');
const net = require('node:net');
const parent = process.ppid;
setInterval(() => {
  if (process.ppid !== parent) { process.exit(1); }
}, 1000).unref();

const { TCP } = process.binding('tcp_wrap');
const { bind, bind6, listen } = TCP.prototype;

TCP.prototype.bind = function (address, ...rest) {
  return bind.call(this, address === '0.0.0.0' ? '127.0.0.1' : address,
    ...rest);
};
TCP.prototype.bind6 = function (address, ...rest) {
  return bind6.call(this, address === '::' ? '::ffff:127.0.0.1' : address,
    ...rest);
};
let file = process.env.CLEAT_TEST_PORT;
TCP.prototype.listen = function (...rest) {
  const error = listen.apply(this, rest);
  const name = {};
  if (!error && file && !this.getsockname(name)) {
    fs.writeFileSync(file + '.new', String(name.port));
    fs.renameSync(file + '.new', file);
    file = undefined;
  }
  return error;
};

const listenOf = net.Server.prototype.listen;
net.Server.prototype.listen = function (...rest) {
  if ('keepAliveTimeout' in this) { this.keepAliveTimeout = 600000; }
  return listenOf.apply(this, rest);
};
