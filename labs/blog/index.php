<?php
// A guest book: what is posted as `text` is kept in MariaDB.
mysqli_report(MYSQLI_REPORT_OFF);
$password = trim(file_get_contents('/run/secrets/db_password'));
$db = @mysqli_connect('db', 'blog', $password, 'blog');
if (!$db) {
    http_response_code(503);
    exit('no database: ' . mysqli_connect_error() . "\n");
}
$db->query('create table if not exists posts (text varchar(200), at timestamp default current_timestamp)');
if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    $put = $db->prepare('insert into posts (text) values (?)');
    $put->execute([substr($_POST['text'] ?? '', 0, 200)]);
}
$posts = $db->query('select text from posts order by at desc limit 20')->fetch_all();
header('Content-Type: text/plain');
printf("%d posts in MariaDB %s\n", count($posts), explode('-', $db->server_info)[0]);
printf("you are %s; this is %s, behind %s\n", $_SERVER['REMOTE_ADDR'], gethostname(), $_SERVER['HTTP_X_WEB']);
foreach ($posts as [$text]) {
    printf("- %s\n", htmlspecialchars($text));
}
