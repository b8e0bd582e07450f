-- sysbench: a connection for each select. The time of an event is that of both.

sysbench.cmdline.options = { table_size = { "Number of rows of the table", 10000 } }

function thread_init()
  driver = sysbench.sql.driver()
end

function event()
  local connection = driver:connect()
  connection:query("SELECT c FROM sbtest1 WHERE id = " .. sysbench.rand.uniform(1, sysbench.opt.table_size))
  connection:disconnect()
end
