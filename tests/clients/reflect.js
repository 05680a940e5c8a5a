// SPDX-License-Identifier: LGPL-2.1-or-later
// reflect.js HOST:PORT MODULES: the same as reflect.py with grpc-js, whose reflection client finds out what there is;
// then a blob goes there and back, by messages that are described by the server alone.
'use strict';
const path = require('path');
const crypto = require('crypto');
const [address, modules] = process.argv.slice(2);
const grpc = require(path.join(modules, '@grpc/grpc-js'));
const { GrpcReflection } = require(path.join(modules, 'grpc-js-reflection-client'));

// As in reflect.py: the first a server need not have, the others tell that the method itself is at fault.
const optional = new Set(['/google.longrunning.Operations/WaitOperation']);
const bad = new Set(['UNIMPLEMENTED', 'UNKNOWN', 'INTERNAL', 'UNAVAILABLE']);
const credentials = grpc.credentials.createInsecure();

// Calls a method with these messages; {code, messages}.
function call(client, { path: name, requestStream, responseStream, requestSerialize, responseDeserialize }, requests,
	until = () => false) {
	const kind = ['makeUnaryRequest', 'makeServerStreamRequest', 'makeClientStreamRequest',
		'makeBidiStreamRequest'][(requestStream ? 2 : 0) + (responseStream ? 1 : 0)];
	const options = { deadline: Date.now() + 10000 };
	return new Promise((resolve) => {
		const messages = [];
		let ended = false;
		const end = (error) => {
			if (ended)
				return;
			ended = true;
			resolve({ code: error ? grpc.status[error.code] : 'OK', details: error && error.details, messages });
		};
		const answer = (error, message) => { if (message) messages.push(message); end(error); };
		const more = requestStream ? [] : [requests[0]];
		const stream = client[kind](name, requestSerialize, responseDeserialize, ...more, new grpc.Metadata(), options,
			...(responseStream ? [] : [answer]));
		if (responseStream) {
			stream.on('error', end);
			stream.on('end', () => end());
			stream.on('data', (message) => {
				messages.push(message);
				if (until(message)) {
					end();
					stream.cancel();
				}
			});
		}
		if (requestStream) {
			for (const request of requests)
				stream.write(request);
			stream.end();
		}
	});
}

async function main() {
	const client = new grpc.Client(address, credentials);
	const methods = {};
	for (const version of ['v1', 'v1alpha']) {
		const reflection = new GrpcReflection(address, credentials, {}, version);
		for (const service of await reflection.listServices())
			for (const { definition } of await reflection.listMethods(service))
				methods[definition.path] = definition;
	}
	const failed = [];
	for (const definition of Object.values(methods)) {
		const { code, details } = await call(client, definition, [{}], () => true);
		console.log(`${definition.path}: ${code}`);
		if (bad.has(code) && !optional.has(definition.path))
			failed.push(`${definition.path}: ${code}: ${details}`);
	}
	const count = Object.keys(methods).length;
	if (failed.length || count < 20)
		throw new Error(`${count} methods; these failed:\n${failed.join('\n')}`);

	const data = crypto.randomBytes(3000000);
	const hash = crypto.createHash('sha256').update(data).digest('hex');
	const write = await call(client, methods['/google.bytestream.ByteStream/Write'], [
		{ resource_name: `uploads/${crypto.randomUUID()}/blobs/${hash}/${data.length}`, data: data.subarray(0, 2000000) },
		{ write_offset: 2000000, data: data.subarray(2000000), finish_write: true }]);
	const read = await call(client, methods['/google.bytestream.ByteStream/Read'],
		[{ resource_name: `blobs/${hash}/${data.length}` }]);
	if (write.code !== 'OK' || !Buffer.concat(read.messages.map((message) => message.data)).equals(data))
		throw new Error(`a blob does not come back: ${write.code} ${write.details}, ${read.code} ${read.details}`);
	console.log(`${count} methods`);
}

main().then(() => process.exit(0), (problem) => {
	console.error(problem);
	process.exit(1);
});
