<?php
// PHP's curl: one task after the other.
[$base, $host, $proxy] = [getenv('BASE'), getenv('HOST'), getenv('PROXY')];
$body = str_repeat(implode('', array_map('chr', range(0, 249))), 80000);

function handle($path, $options = []) {
    global $base, $host, $proxy;
    $handle = curl_init($base . $path);
    $headers = $options['headers'] ?? [];
    if ($host) $headers[] = "Host: $host";
    curl_setopt_array($handle, [CURLOPT_RETURNTRANSFER => true, CURLOPT_PROXY => $proxy, CURLOPT_HTTPHEADER => $headers,
        CURLOPT_ENCODING => ''] + ($options['set'] ?? []));
    return $handle;
}
function ask($path, $options = []) {
    $handle = handle($path, $options);
    $found = curl_exec($handle);
    $status = curl_getinfo($handle, CURLINFO_RESPONSE_CODE);
    if ($status != 200) throw new Exception("$status " . curl_error($handle) . $found);
    return $found;
}
$tasks = [
    'up' => fn() => json_decode(ask('/up', ['set' => [CURLOPT_POST => true, CURLOPT_POSTFIELDS => $body]])),
    'down' => fn() => hash('sha256', ask('/bytes/' . strlen($body))),
    'chunked' => function () {
        $pieces = ['ab', 'c', ''];
        return json_decode(ask('/x', ['headers' => ['Transfer-Encoding: chunked'], 'set' => [CURLOPT_POST => true,
            CURLOPT_READFUNCTION => function () use (&$pieces) { return array_shift($pieces) ?? ''; }]]));
    },
    'gzip' => fn() => ask('/gzip'),
    'sse' => fn() => ask('/sse?n=3&every=0.01'),
    'parallel' => function () {
        $multi = curl_multi_init();
        $handles = array_map(fn($n) => handle("/n$n"), range(0, 49));
        foreach ($handles as $handle) curl_multi_add_handle($multi, $handle);
        do { curl_multi_exec($multi, $running); curl_multi_select($multi); } while ($running);
        return array_map(fn($handle) => json_decode(curl_multi_getcontent($handle)), $handles);
    },
    'utf8' => fn() => json_decode(ask('/grüße?x=ü')),
];
foreach ($tasks as $way => $work) {
    try { $found = ['found' => $work()]; } catch (Throwable $error) { $found = ['error' => $error->getMessage()]; }
    echo json_encode(['way' => $way] + $found), "\n";
}
